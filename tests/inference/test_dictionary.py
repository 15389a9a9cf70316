"""The dictionary: exact at its entries, as near as its spacing elsewhere, honest about it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from cestprep.data import load_recipe
from cestprep.inference import methods, solving
from cestprep.inference.estimate import Validity
from cestprep.inference.measured import Measured
from cestprep.inference.methods import dictionary, voxelwise
from cestprep.inference.methods.dictionary import Options
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import FreeParameter, Recipe
from cestprep.phantom.protocols import fingerprinting_protocol

SD = 0.01
SMALL = Options(entries=40_000, nodes=12)


def spin_lock():
    """Signals that a fast solver is accurate for."""
    problem = problems.problem(pulsed=True, frequency_mhz=127.73)
    return dataclasses.replace(problem, solver="reduced")


def drawn(n, seed=3, sd=SD, share=(0.15, 0.85)):
    """Truths away from the bounds, of which the prior would hide the spread."""
    problem = spin_lock()
    low, high = problem.bounds.T[:, :, None]
    place = np.random.default_rng(seed).uniform(*share, (len(low), n))
    truth, known = low + place * (high - low), problems.known(problem, n, seed)
    observation = problems.observe(problem, truth, known, sd, seed + 1)
    return problem, truth, dataclasses.replace(observation, noise_sd=np.full(n, sd),
                                               noise_source="given")  # fmt: skip


def made(problem, observation, options=SMALL, seed=0):
    measured = Measured.of(problem, observation)
    return dictionary.make(problem, measured.known, options, seed), measured


@pytest.mark.parametrize("count", [1, 511, 512, 1500])
def test_nearest_signal_is_that_of_brute_force(count):
    """Signals as alike as those of neighbours in a dictionary: unit norm, apart by 0.01."""
    rng = np.random.default_rng(count)
    signals = 0.18 + 0.002 * rng.standard_normal((31, count))
    target = 0.18 + 0.002 * rng.standard_normal((31, 256))
    found = dictionary.nearest_signal(*(jnp.asarray(x, jnp.float32) for x in (signals, target)))
    distance = np.sum((signals[:, :, None] - target[:, None]) ** 2, axis=0)
    chosen = distance[np.asarray(found), np.arange(256)]
    np.testing.assert_allclose(chosen, distance.min(axis=0), rtol=1e-5)


def test_memory_of_matching_does_not_grow_with_pairs():
    """400 000 entries: their copy by blocks is 50 MB; scores of 256 voxels would be 410 MB."""
    shapes = [jax.ShapeDtypeStruct((31, n), jnp.float32) for n in (400_000, 256)]
    memory = dictionary.nearest_signal.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200e6


@pytest.mark.parametrize("cartesian", [True, False])
def test_entries_are_found_exactly_whatever_the_known_values(cartesian):
    problem, _, observation = drawn(300, sd=0)
    found, measured = made(problem, observation, dataclasses.replace(SMALL, cartesian=cartesian))
    node = found.nodes.nearest(measured.known)
    middle, width = problem.bounds.mean(axis=1), np.ptp(problem.bounds, axis=1)
    inside = (np.abs(found.theta - middle[:, None, None]) < 0.35 * width[:, None, None]).all(axis=0)
    rng = np.random.default_rng(0)
    truth = found.theta[:, node, [rng.choice(np.flatnonzero(inside[c])) for c in node]]
    clean = Measured.of(problem, problems.observe(problem, truth, measured.known, 0))
    np.testing.assert_array_equal(dictionary.match(found, clean, moves=4), truth)
    unmoved = dictionary.match(found, clean, moves=0)
    assert (unmoved == truth).all(axis=0).mean() < 0.2  # the test would otherwise not need moves


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(Options(), id="random", marks=pytest.mark.slow),
        pytest.param(Options(cartesian=True), id="lattice"),
    ],
)
def test_misfit_and_errors_are_those_of_least_squares(options):
    """SNR 100: a distance of a third of the noise adds 5 % to errors, and to the misfit 0.4 %."""
    problem, truth, observation = drawn(200)
    found = dictionary.estimate(problem, observation, options=options)
    fit = voxelwise.estimate(problem, observation)
    used = fit.validity == Validity.OK
    assert used.mean() > 0.85
    away = (np.abs(found.mean - fit.mean) / fit.sd)[:, used]
    assert np.median(away) < 0.3
    assert found.nrmse.mean() < 1.01 * fit.nrmse.mean()
    error, least = (np.sqrt(np.mean((e.mean - truth)[:, used] ** 2, axis=1)) for e in (found, fit))
    assert (error < 1.1 * least).all()
    unmoved = dataclasses.replace(options, moves=0)
    assert dictionary.estimate(problem, observation, options=unmoved).nrmse.mean() > (
        1.05 * fit.nrmse.mean()
    )


def test_another_round_makes_no_match_worse():
    """From a single node some voxels are moved too far."""
    problem, _, observation = drawn(300)
    found, measured = made(problem, observation, Options(entries=3_000, nodes=1))
    rounds = [dictionary.match(found, measured, moves) for moves in range(4)]
    nrmse = [dictionary.describe(found, measured, theta).nrmse for theta in rounds]
    assert (np.diff(nrmse, axis=0) < 1e-6).all()
    assert nrmse[3].mean() < 0.8 * nrmse[0].mean()


@pytest.mark.parametrize("cartesian", [True, False])
@pytest.mark.parametrize("sd", [0.01, 0.001])
def test_intervals_hold_the_truth_however_coarse_the_dictionary(cartesian, sd):
    """1000 draws know a share of 95 % to 0.7 points; a lattice is not as round as assumed."""
    problem, truth, observation = drawn(1000, sd=sd, share=(0.3, 0.7))
    options = Options(entries=100_000, cartesian=cartesian)
    found = dictionary.estimate(problem, observation, options=options)
    inside = (truth > found.lower) & (truth < found.upper)
    assert inside.mean() == pytest.approx(0.95, abs=0.045 if cartesian else 0.025)
    if sd == 0.001:  # the noise alone does not explain the errors
        fit = voxelwise.estimate(problem, observation)
        assert (np.abs(found.mean - truth) < 1.96 * fit.sd).mean() < 0.7


@pytest.mark.parametrize("cartesian", [True, False])
def test_voxels_do_not_depend_on_their_neighbours(cartesian):
    problem, _, observation = drawn(400)
    found, measured = made(problem, observation, dataclasses.replace(SMALL, cartesian=cartesian))
    order = np.random.default_rng(0).permutation(400)[:137]
    part = Measured.of(problem, observation.take(order))
    whole, apart = (dictionary.match(found, m, moves=2) for m in (measured, part))
    np.testing.assert_array_equal(apart, whole[:, order])
    whole, apart = (
        dictionary.describe(found, *pair) for pair in ((measured, whole), (part, apart))
    )
    for name in ("covariance", "fitted", "nrmse"):
        a, b = getattr(whole, name)[..., order], getattr(apart, name)
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def test_a_dictionary_depends_on_its_inputs_only():
    problem, _, observation = drawn(60)
    known = Measured.of(problem, observation).known
    made = [
        dictionary.make(problem, values, dataclasses.replace(SMALL, entries=2_000), seed)
        for values, seed in ((known, 0), (known[:, ::-1], 0), (known, 1))
    ]
    for name in ("theta", "signals"):
        first, same, other = (getattr(d, name) for d in made)
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)


def test_nodes_are_where_voxels_are():
    """A rare tissue gets a node of its own; parameters that hardly vary are not told apart."""
    rng = np.random.default_rng(0)
    t1 = np.where(np.arange(3000) < 60, 3.5, 1.2) + 0.1 * rng.standard_normal(3000)
    known = np.array([t1, 0.08 * (1 + 1e-5 * rng.standard_normal(3000)), np.zeros(3000)])
    nodes = dictionary._find_nodes(known, 12, rng)
    assert nodes.place.shape == (3, 12)
    away = known - nodes.known[:, nodes.nearest(known)]
    assert np.abs(away[0]).max() < 0.3
    assert (np.ptp(nodes.known[1:], axis=1) == 0).all()
    np.testing.assert_allclose(nodes.known[1:, 0], [0.08, 0], rtol=1e-4)
    few = dictionary._find_nodes(known[:, 60:65], 12, rng)
    np.testing.assert_allclose(np.sort(few.known[0]), np.sort(t1[60:65]), atol=0.01)
    assert dictionary._find_nodes(known[1:], 12, rng).place.shape == (2, 1)
    assert dictionary._find_nodes(known[:0], 12, rng).place.shape == (0, 1)


def test_distance_under_m0_normalization():
    problem, _, observation = drawn(200)
    problem = dataclasses.replace(problem, normalization="m0")
    found, fit = (m.estimate(problem, observation) for m in (dictionary, voxelwise))
    used = fit.validity == Validity.OK
    assert np.median((np.abs(found.mean - fit.mean) / fit.sd)[:, used]) < 0.3
    assert found.nrmse.mean() < 1.01 * fit.nrmse.mean()


def test_a_free_scale_is_no_axis():
    """Matches are those under unit norm; the scale is that of the data, or its bound."""
    unit, _, observation = drawn(50)
    scale = 1 / observation.data.max(axis=0)  # m0 is 1
    high = float(np.median(scale))
    m0 = FreeParameter("m0", "m0", 0.5, high, "1")
    free = (unit.free[0], m0, unit.free[1])
    problem = dataclasses.replace(unit, free=free, normalization="free-scale")
    of_unit, found = (dictionary.estimate(p, observation, options=SMALL) for p in (unit, problem))
    np.testing.assert_array_equal(found.mean[[0, 2]], of_unit.mean)
    np.testing.assert_allclose(found.mean[1], np.minimum(scale, high), rtol=0.02)
    cut = found.mean[1] == np.float32(high)
    assert 0.2 < cut.mean() < 0.9
    assert np.isin(found.validity[cut], (Validity.AT_BOUND, Validity.MISFIT)).all()
    np.testing.assert_array_equal(found.validity[~cut], of_unit.validity[~cut])
    np.testing.assert_allclose(found.sd[[0, 2]][:, ~cut], of_unit.sd[:, ~cut], rtol=0.02)


def test_generated_vials():
    """Two pools, relaxation fixed by the recipe, nominal fields: one node takes all entries."""
    recipe = Recipe.from_mapping(load_recipe("larg-9t4"))
    protocol = fingerprinting_protocol((3.0, 3.0), 42.5764 * recipe.field_t, False)
    problem = InverseProblem.of_stage(recipe, recipe.stages[0], protocol)
    truth = np.array([np.repeat([0.0027, 0.0014, 0.0007], 20), np.repeat([200.0, 400, 650], 20)])
    known = np.array([np.zeros(60), np.ones(60)])
    observation = problems.observe(problem, truth, known, sd=0.004)
    m0 = FreeParameter("m0", "m0", 0.5, 3.0, "1")
    problem = dataclasses.replace(problem, free=(*problem.free, m0), normalization="free-scale")
    found = dictionary.estimate(problem, observation, options=Options(entries=20_000))
    for vial in (slice(0, 20), slice(20, 40), slice(40, 60)):
        assert found.valid[vial].all()
        means = found.mean[:2, vial].mean(axis=1)
        np.testing.assert_allclose(means, truth[:, vial].mean(axis=1), rtol=0.06)
    np.testing.assert_allclose(found.mean[2], 1 / observation.data.max(axis=0), rtol=0.02)


@pytest.mark.parametrize("cartesian", [True, False])
def test_codes(cartesian):
    problem, truth, observation = drawn(60)
    low, high = problem.bounds.T
    truth[:, 0], truth[:, 1] = low, high
    fresh = problems.observe(problem, truth, observation.known, 0)
    data, known = fresh.data.copy(), observation.known.copy()
    data[:, 2] = 0
    data[4, 3] = np.nan
    rows = {name: i for i, name in enumerate(problem.known_parameters)}
    known[rows["t1"], 4] = 1e-30
    known[rows["b1_scale"], 5] = 1e20
    known[rows["b0_ppm"], 6] = np.nan
    given = dataclasses.replace(observation, data=data, known=known)
    found = dictionary.estimate(problem, given, options=Options(cartesian=cartesian))
    edge = slice(0, 2 if cartesian else 1)  # the random entry next to a corner may be inside
    assert (found.validity[edge] == Validity.AT_BOUND).all()
    assert (found.lower[:, edge] == np.float32(low[:, None])).all()
    assert (found.validity[2:4] == Validity.NO_SIGNAL).all()
    assert not found.valid[4:7].any()
    assert found.valid[7:].all()
    for array in found.arrays().values():
        assert np.isfinite(array).all()


def test_too_few_entries_are_refused():
    problem, _, observation = drawn(60)
    with pytest.raises(ValueError, match="12 nodes and 2 free parameters need at least 48 entries"):
        made(problem, observation, dataclasses.replace(SMALL, entries=47))
    with pytest.raises(ValueError, match="nodes=0: expected 1 to"):
        Options(nodes=0)


def test_is_found_by_name_and_solves_each_voxel_with_its_solver():
    problem, truth, observation = drawn(40)
    problem = dataclasses.replace(problem, solver="auto")
    known = observation.known.copy()
    known[problem.known_parameters.index("t2"), 20:] = 0.004  # too fast for the fast solver
    fresh = problems.observe(dataclasses.replace(problem, solver="general"), truth, known, 0.004)
    options = methods.options_of("dictionary", {"entries": "20000", "cartesian": "true"})
    assert options == Options(entries=20_000, cartesian=True)
    heard = []

    class Listener:
        def __call__(self, done, total):
            heard.append((done, total))

        def phase(self, what, unit):
            heard.append(what)
            return self

    found = solving.estimate(methods.load("dictionary"), problem, fresh, 0, Listener(), options)
    assert set(found.voxels_by_solver) == {"general", "reduced"}
    noise = 0.004 * np.sqrt(len(fresh.data)) / np.linalg.norm(fresh.data, axis=0)
    assert (found.nrmse < 1.5 * noise).all()
    assert {"dictionary", "matching"} <= set(heard)
