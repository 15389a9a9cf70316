"""Networks: independence of voxels, determinism, training that keeps its best, honest answers."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from cestprep.inference import amortized, answers, unconstrained
from cestprep.inference.estimate import Validity
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import Measured
from cestprep.inference.methods import psvae, supervised
from cestprep.inference.network import infer
from cestprep.inference.residual import voxels_of

SD = 0.01
OWN = psvae.Options(simulated=20_000, steps=1200, own_steps=200, batch=256)
QUICK = supervised.Options(simulated=20_000, steps=1200, batch=256)


def drawn(n, seed):
    """Truths from the prior, known values with errors of 2 %, SNR 100."""
    problem = problems.problem(pulsed=True, frequency_mhz=127.73)
    problem = dataclasses.replace(problem, solver="reduced")
    rng = np.random.default_rng(seed)
    low, high = problem.bounds.T[:, :, None]
    truth = low + (high - low) * rng.random((2, n))
    known = problems.known(problem, n, seed)
    sd = 0.02 * np.abs(known)
    observation = problems.observe(problem, truth, known, SD, seed + 1)
    return problem, truth, dataclasses.replace(
        observation,
        known=known + sd * rng.standard_normal(known.shape),
        known_covariance=np.einsum("iv,ij->ijv", sd**2, np.eye(len(known))),
        noise_sd=np.full(n, SD),
        noise_source="option",
    )  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    problem, _, observation = drawn(600, seed=5)
    return supervised.learn(problem, observation, 0, None, QUICK)


@pytest.fixture(scope="module")
def unseen():
    return drawn(600, seed=50)


def test_voxels_are_simulated_within_physical_limits():
    """Half of the draws of an uncertain rate would be below zero, where signals have no end."""
    problem = problems.problem("amide", pulsed=True, frequency_mhz=127.73)
    known = problems.known(problem, 50)
    rate = problem.known_parameters.index("semisolid.k_exchange")
    factor = np.zeros((len(known), len(known), 50))
    factor[rate, rate] = 5 * known[rate]
    arrays = (np.zeros((31, 50)), known, factor, np.full(50, 0.01))
    voxels = Voxels(*(x.astype(np.float32) for x in arrays))
    drawn = amortized.simulate(problem, voxels, 500, seed=0)
    assert np.isfinite(drawn.clean).all()
    assert drawn.clean.max() <= 1


def test_regions_of_unseen_voxels_hold_the_truth(learned, unseen):
    """600 voxels know a share of 95 % to 0.9 points; a short training is allowed 4."""
    problem, truth, observation = unseen
    plain = supervised.estimate(
        problem, observation, 0, None, dataclasses.replace(QUICK, refine=False), learned
    )
    refined = supervised.estimate(problem, observation, 0, None, QUICK, learned)
    for estimate in (plain, refined):
        inside = (truth > estimate.lower) & (truth < estimate.upper)
        assert inside.mean() == pytest.approx(0.95, abs=0.04)
    assert refined.nrmse.mean() < plain.nrmse.mean()
    assert refined.valid.mean() > 0.95


@pytest.mark.parametrize("refine", [False, True])
def test_a_voxel_is_answered_alike_whatever_its_neighbours(learned, unseen, refine):
    problem, _, observation = unseen
    options = dataclasses.replace(QUICK, refine=refine)
    order = np.random.default_rng(0).permutation(600)[:97]
    whole = supervised.estimate(problem, observation, 0, None, options, learned)
    part = supervised.estimate(problem, observation.take(order), 0, None, options, learned)
    for name in ("mean", "covariance", "fitted"):
        a, b = getattr(whole, name)[..., order], getattr(part, name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(a).max())


def test_same_seed_same_bits_other_seed_other_weights():
    problem, _, observation = drawn(100, seed=5)
    quick = dataclasses.replace(OWN, simulated=2000, steps=80, own_steps=20)
    nets = [psvae.learn(problem, observation, seed, None, quick) for seed in (0, 0, 1)]
    leaves = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(n.network)]) for n in nets]
    np.testing.assert_array_equal(leaves[0], leaves[1])
    assert np.abs(leaves[0] - leaves[2]).max() > 1e-3


def test_evidence_brings_answers_closer_to_the_data(learned, unseen):
    """Training on the voxels' own evidence lowers the misfit of what the network says."""
    problem, _, observation = unseen
    plain = dataclasses.replace(QUICK, refine=False)
    adapted = psvae.learn(problem, observation, 0, None, OWN)
    before = supervised.estimate(problem, observation, 0, None, plain, learned)
    after = psvae.estimate(
        problem, observation, 0, None, dataclasses.replace(OWN, refine=False), adapted
    )
    assert after.nrmse.mean() < before.nrmse.mean()


def test_inputs_far_from_training_are_flagged(learned, unseen):
    problem, _, observation = unseen
    known = observation.known.copy()
    known[problem.known_parameters.index("t1"), :20] *= 20
    odd = dataclasses.replace(observation, known=known)
    estimate = supervised.estimate(
        problem, odd, 0, None, dataclasses.replace(QUICK, refine=False), learned
    )
    assert (estimate.validity[:20] == Validity.OUT_OF_RANGE).all()
    assert (estimate.validity[20:] != Validity.OUT_OF_RANGE).all()


def test_misfit_is_judged_by_noise_that_is_known(learned, unseen):
    """A spiked volume in 30 of 600 voxels: nearly all found, hardly any other flagged."""
    problem, _, observation = unseen
    data = observation.data.copy()
    data[12, :30] *= 1.5
    spiked = dataclasses.replace(observation, data=data)
    estimate = supervised.estimate(problem, spiked, 0, None, QUICK, learned)
    assert np.isin(estimate.validity[:30], (Validity.MISFIT, Validity.NOT_CONVERGED)).mean() > 0.9
    assert (estimate.validity[30:] == Validity.MISFIT).mean() < 0.01


def test_posterior_of_the_network_and_its_moments_agree(learned, unseen):
    """Moments in package units are those of samples of the network's Gaussian."""
    problem, _, observation = unseen
    measured = Measured.of(problem, observation)
    voxels = voxels_of(measured)
    estimate = answers.plain(measured, voxels, learned.network)
    mean, factor = infer(learned.network, voxels)
    draws = np.random.default_rng(0).standard_normal((4000, 2, 1))
    some = slice(0, 5)
    u = mean[None, :, some] + np.einsum("ijv,mjz->miv", factor[:, :, some], draws)
    theta = np.stack([np.asarray(unconstrained.to_theta(problem, x)) for x in jnp.asarray(u)])
    np.testing.assert_allclose(theta.mean(axis=0), estimate.mean[:, some], rtol=0.03)
    np.testing.assert_allclose(
        theta.std(axis=0), np.sqrt(np.einsum("iiv->iv", estimate.covariance))[:, some], rtol=0.1
    )
