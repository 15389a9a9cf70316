"""Inference as a GPU gets it, without one: fits, posteriors, training, matching."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from jax import ShapeDtypeStruct
from programs import faults, lowered

from cestprep.inference import amortized, grid, least_squares, paper, refine
from cestprep.inference.amortized import Measurements, Simulated
from cestprep.inference.likelihood import Metric, Voxels
from cestprep.inference.methods import dictionary
from cestprep.inference.network import Network, predict

V, N, Q = 16, 31, 4


def shape(*sizes):
    return ShapeDtypeStruct(sizes, jnp.float32)


VOXELS = Voxels(shape(N, V), shape(Q, V), shape(Q, Q, V), shape(V))
METRIC = Metric(VOXELS.noise, shape(Q, N, V), shape())
U, FACTOR = shape(2, V), shape(2, 2, V)
KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=["reduced", "general"])
def problem(request):
    found = problems.problem(pulsed=True, frequency_mhz=127.73)
    assert len(found.known_parameters) == Q
    return dataclasses.replace(found, solver=request.param)


def test_fits_and_posteriors(problem):
    box = grid.Box(shape(2, V), shape(2, V))
    given = least_squares.Given(VOXELS.data, VOXELS.known, shape(Q, Q, V), shape(V), None)
    for fun, arguments in (
        (lambda v, u: refine.climb(problem, v, u, 4), (VOXELS, U)),
        (lambda v, m, u, f: refine.moments(problem, v, m, u, f), (VOXELS, METRIC, U, FACTOR)),
        (lambda v, m, u, f: refine.locate(problem, v, m, u, f, u), (VOXELS, METRIC, U, FACTOR)),
        (lambda b, v: grid.level(grid.Layout(problem, 20), b, v), (box, VOXELS)),
        (lambda b, v: grid.level(grid.Layout(problem, 20, True), b, v), (box, VOXELS)),
        (lambda g: least_squares.fit_chunk(problem, least_squares.Options(), g), (given,)),
    ):
        assert faults(lowered(fun, *arguments)) == []


def test_training(problem):
    """A step's gradient of every loss, for networks of ours and of the papers."""
    width = N + Q + Q * (Q + 1) // 2 + 1
    inputs = np.random.default_rng(0).standard_normal((width, 5))
    network = Network.initial(inputs, 2, KEY)
    simulated = Simulated(U, shape(N, V), VOXELS)
    measured = Measurements(VOXELS, shape(Q, N, V))
    published = paper.PaperNetwork.initial(N + 3, paper.PSVAE, KEY)
    for loss, net, data in (
        (amortized.truth_loss(problem, 8), network, simulated),
        (amortized.evidence_loss(problem, 8), network, measured),
        (amortized.signal_loss(problem, 8, 0.1), network, VOXELS),
        (paper.published_loss(problem, paper.PSVAE, 8), published, VOXELS),
    ):
        weights, static = jax.tree_util.tree_flatten(net)

        def step(weights, data, loss=loss, static=static):
            net = jax.tree_util.tree_unflatten(static, weights)
            return jax.grad(lambda w: loss(jax.tree_util.tree_unflatten(static, w), data, KEY))(
                jax.tree_util.tree_leaves(net)
            )

        assert faults(lowered(step, weights, data)) == []


def test_answers_and_matching():
    inputs = np.random.default_rng(0).standard_normal((N + Q + Q * (Q + 1) // 2 + 1, 5))
    network = Network.initial(inputs, 2, KEY)
    assert faults(lowered(lambda v: predict(network, v), VOXELS)) == []
    assert faults(lowered(dictionary.nearest_signal, shape(N, 3000), shape(N, V))) == []
