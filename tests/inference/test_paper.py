"""Paper modes: the published losses, networks and grid, by hand, and their known weaknesses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from cestprep.inference import methods, paper, solving
from cestprep.inference.measured import Measured
from cestprep.inference.methods import grid, nbmf, psvae
from cestprep.inference.residual import voxels_of
from cestprep.physics import simulate

SD = 0.01


@pytest.fixture(scope="module")
def seen():
    """200 voxels inside the papers' ranges, SNR 100, maps with errors of 2 %."""
    problem = problems.problem(pulsed=True, frequency_mhz=127.73)
    problem = dataclasses.replace(problem, solver="reduced")
    rng = np.random.default_rng(2)
    truth = np.array([rng.uniform(0.05, 0.2, 200), rng.uniform(20, 50, 200)])
    known = problems.known(problem, 200, 3)
    covariance = np.einsum("iv,ij->ijv", (0.02 * known) ** 2, np.eye(len(known)))
    observation = problems.observe(problem, truth, known, SD, 4, covariance)
    observation = dataclasses.replace(observation, noise_sd=np.full(200, SD), noise_source="option")
    return problem, truth, observation


def the_loss(what, problem, observation, key):
    """A network, its loss, and its answers and the noise of that loss again, step by step."""
    problem = paper.published_problem(problem, what)
    voxels = jax.tree.map(jnp.asarray, voxels_of(Measured.of(problem, observation)))
    inputs = paper._inputs(problem, voxels)
    network = paper.PaperNetwork.initial(inputs.shape[0], what, jax.random.key(0))
    got = paper.published_loss(problem, what, 64)(network, voxels, key)
    chosen, drawn, varied = jax.random.split(key, 3)
    index = np.asarray(jax.random.randint(chosen, (64,), 0, 200))
    normal = np.asarray(jax.random.normal(drawn, (voxels.data.shape[0], 64)), float)
    return problem, voxels, network, float(got), index, normal, np.asarray(
        jax.random.normal(varied, (2, 64)), float
    )  # fmt: skip


def answers(problem, what, network, voxels, data, step):
    """The sampled parameters of each voxel, and the variances and steps behind them."""
    rows = [1 / np.asarray(voxels.known[i], float) for i in (0, 1)]
    rows.append(np.asarray(voxels.known[3], float))  # B1; B0 is not an input
    x = np.concatenate([np.array(rows), data])
    for layer in network.layers[:-1]:
        x = np.asarray(layer.weight, float) @ x + np.asarray(layer.bias, float)[:, None]
        x = np.maximum(x, 0) if what is paper.NBMF else 1 / (1 + np.exp(-x))
    last = network.layers[-1]
    x = np.asarray(last.weight, float) @ x + np.asarray(last.bias, float)[:, None]
    out = 1 / (1 + np.exp(-x / what.steepness))
    variance, angle = what.widest * out[2:4], np.pi * (out[4] - 0.5)
    turned = np.sqrt(variance) * step
    away = np.array(
        [
            np.cos(angle) * turned[0] + np.sin(angle) * turned[1],
            -np.sin(angle) * turned[0] + np.cos(angle) * turned[1],
        ]
    )
    top = problem.bounds[:, 1][:, None]
    return np.clip(out[:2] + away, 0, 1) * top, variance, away


@pytest.mark.parametrize("what", [paper.NBMF, paper.PSVAE], ids=["nbmf", "psvae"])
def test_losses_are_the_published_formulas(seen, what):
    """Written out in NumPy from the papers' definitions, signals by the simulator."""
    problem, _, observation = seen
    key = jax.random.key(9)
    problem, voxels, network, got, index, normal, step = the_loss(what, problem, observation, key)
    assert problem.known_parameters == ("t1", "t2", "b0_ppm", "b1_scale")
    voxels = type(voxels)(*(x[..., index] for x in voxels))
    clean = np.asarray(voxels.data, float)
    noise = what.noise * normal
    noisy = clean * (1 + noise) if what is paper.PSVAE else clean + noise
    scale = noisy[0] if what is paper.NBMF else np.linalg.norm(noisy, axis=0)
    noisy = noisy / scale
    theta, variance, away = answers(problem, what, network, voxels, noisy, step)
    if what is paper.NBMF:
        p = problem.parameters(jnp.asarray(theta, jnp.float32), voxels.known)
        z = simulate.pairwise_signal(
            problem.protocol, problem.model, p, jnp.asarray(noisy, jnp.float32), problem.solver
        )
        z = np.asarray(z, float)
        z = z / z[0]
    else:
        z = np.asarray(problem.signal(jnp.asarray(theta, jnp.float32), voxels.known), float)
        z = z / np.linalg.norm(z, axis=0)
    distance = np.linalg.norm(z - noisy, axis=0) / np.linalg.norm(noisy, axis=0)
    if what is paper.NBMF:
        want = np.mean(100 * distance - 0.8 * np.abs(away).sum(axis=0))
    else:
        want = np.mean(1000 * distance**2 - 0.1 * np.log(variance.prod(axis=0)))
    assert got == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize("method", [nbmf, psvae], ids=["nbmf", "psvae"])
def test_paper_modes_learn_from_the_voxels_and_stay_within_the_published_ranges(seen, method):
    problem, _, observation = seen
    options = method.Options(paper=True, steps=400)
    problem = method.adapted(problem, options)
    assert problem.bounds[:, 1].tolist() == ([0.3, 150] if method is nbmf else [0.3, 70])
    learned = solving.learn(method, problem, observation, options=options)
    found = solving.estimate(method, problem, observation, 0, None, options, learned)
    low, high = problem.bounds.T[:, :, None]
    assert ((found.mean >= low) & (found.mean <= high)).all()
    held_out = [row[3] for row in learned.curve]
    assert min(held_out) < held_out[0]
    assert (found.covariance[[0, 1], [0, 1]] > 0).all()


def test_the_published_grid_by_brute_force(seen):
    """100 x 100 cells over the ranges, exact maps, the noise from the best cell's distance."""
    problem, _, observation = seen
    some = observation.take(np.arange(3))
    found = grid.estimate(problem, some, options=grid.Options(paper=True))
    voxels = voxels_of(Measured.of(problem, some))
    low, high = problem.bounds.T[:, :, None]
    unit = np.stack([m.ravel() for m in np.meshgrid(*[(np.arange(100) + 0.5) / 100] * 2)])
    cells = (low + unit * (high - low)).astype(np.float32)
    for v in range(3):
        known = np.repeat(voxels.known[:, v, None], 10_000, axis=1)
        z = np.asarray(problem.predict(jnp.asarray(cells), jnp.asarray(known)), float)
        distance2 = np.sum((z - voxels.data[:, v, None]) ** 2, axis=0)
        variance = distance2.min() / len(z)
        weight = np.exp(-0.5 * (distance2 - distance2.min()) / variance)
        weight /= weight.sum()
        mean = cells @ weight
        sd = np.sqrt(np.einsum("ic,c->i", (cells - mean[:, None]) ** 2, weight))
        np.testing.assert_allclose(found.mean[:, v], mean, rtol=2e-3)
        got = np.sqrt(np.diagonal(found.covariance[:, :, v]))
        np.testing.assert_allclose(got, sd, rtol=0.02)


def test_paper_mode_has_two_free_parameters(seen):
    problem = seen[0]
    three = dataclasses.replace(
        problem,
        free=(*problem.free, dataclasses.replace(problem.free[0], name="t1", parameter="t1")),
        known_parameters=("t2", "b0_ppm", "b1_scale"),
    )
    for method in (psvae, nbmf, grid):
        with pytest.raises(ValueError, match="two free parameters, found 3"):
            method.adapted(three, method.Options(paper=True))


def test_published_ranges_are_of_parameters_not_of_names(seen):
    """A rate called fss keeps its range; a fraction per one instead of percent changes its own."""
    problem = seen[0]
    fraction, rate = problem.free
    swapped = (dataclasses.replace(fraction, name="kssw"), dataclasses.replace(rate, name="fss"))
    kept = paper.published_problem(dataclasses.replace(problem, free=swapped), paper.PSVAE)
    assert [(f.low, f.high) for f in kept.free] == [(f.low, f.high) for f in problem.free]
    per_one = dataclasses.replace(fraction, unit="1", low=0.01, high=0.2)
    found = paper.published_problem(dataclasses.replace(problem, free=(per_one, rate)), paper.PSVAE)
    assert (found.free[0].low, found.free[0].high, found.free[1].high) == (0, 0.3, 70)


@pytest.mark.parametrize(("name", "idle"), [("psvae", "refine"), ("grid", None), ("nbmf", "batch")])
def test_options_without_effect_in_paper_mode_are_refused(name, idle):
    assert methods.options_of(name, {"paper": "true"}).paper
    if idle is not None:
        value = {"refine": "true", "batch": "9"}[idle]
        with pytest.raises(ValueError, match=f"{idle}: no effect"):
            methods.options_of(name, {"paper": "true", idle: value})


def test_more_axes_than_a_method_has_are_refused(seen):
    problem = seen[0]
    names = ["t1", "t2", "b0_ppm"]
    more = tuple(dataclasses.replace(problem.free[0], name=n, parameter=n) for n in names)
    wide = dataclasses.replace(problem, free=(*problem.free, *more))
    for name in ("grid", "psvae", "supervised"):
        method = methods.load(name)
        with pytest.raises(ValueError, match="3 parameters at most, free are 5"):
            methods.adapted(name, wide, method.Options())
    assert methods.adapted("psvae", wide, psvae.Options(refine=False)) is wide
