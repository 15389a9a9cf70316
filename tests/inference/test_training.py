"""Training: best weights, plateau, interruption, checkpoints that know what they are for."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from cestprep.bids.networks import TrainingFolder, find_networks
from cestprep.errors import InputError
from cestprep.inference import checkpoint, paper, training
from cestprep.inference.checkpoint import Checkpoint
from cestprep.inference.network import Network
from cestprep.physics.protocol import Readout

ASIDE = jnp.full(2, 0.5)


def network(seed=0, inputs=3):
    values = np.random.default_rng(seed).standard_normal((inputs, 9))
    return Network.initial(values, 1, jax.random.key(seed))


def loss(network, target, key):
    """Distance of an output from a target, with noise from the key."""
    return jnp.sum((network.last.bias - target) ** 2) + 1e-3 * jax.random.normal(key)


def run(schedule, store=None, target=3.0, progress=None):
    part = training.Part("x", progress, store)
    key = jax.random.key(1)
    return training.train(network(), loss, jnp.full(2, target), ASIDE, schedule, key, part)


def test_the_best_weights_come_back_and_a_plateau_stops():
    """The voxels kept aside are reached, then overshot on the way to the others."""
    schedule = training.Schedule(400, peak_rate=1e-2, checks=40, patience=4)
    told = []
    end = run(schedule, progress=lambda *done: told.append(done))
    held_out = [c[3] for c in end.curve]
    got = float(jnp.sum((end.network.last.bias - ASIDE) ** 2))
    assert got == pytest.approx(min(held_out), abs=2e-3)
    assert len(held_out) == held_out.index(min(held_out)) + 1 + schedule.patience
    assert held_out[-1] > min(held_out) + 0.1
    assert told[-2:] == [(10 * len(held_out), 400), (10 * len(held_out),) * 2]


def test_networks_of_several_methods_are_told_apart(tmp_path):
    """As fits by two methods leave them in one folder."""
    for method in ("psvae", "nbmf"):
        for stage in ("mt", "amide"):
            record = {"Stage": stage, "Method": method, "SubjectsSeen": ["01"]}
            (tmp_path / f"{stage}_{method}.json").write_text(json.dumps(record))
            (tmp_path / f"{stage}_{method}.safetensors").write_bytes(b"")
    found = find_networks(tmp_path, ("mt", "amide"), "01", "nbmf")
    assert {stage: path.name for stage, path in found.items()} == {
        "mt": "mt_nbmf.json",
        "amide": "amide_nbmf.json",
    }
    with pytest.raises(InputError, match="holds 2 networks of stage mt"):
        find_networks(tmp_path, ("mt",), "01", "supervised")


def test_weights_that_answer_nothing_are_no_result():
    with pytest.raises(FloatingPointError, match=r"x.*nan after 0 steps"):
        run(training.Schedule(100), target=np.nan)


class KilledError(Exception):
    """Stands for a kill between two checks."""


class Fragile(TrainingFolder):
    """Dies after a number of saves."""

    def __init__(self, folder, saves):
        super().__init__(folder)
        self.left = saves

    def save(self, name, tree):
        super().save(name, tree)
        self.left -= 1
        if not self.left:
            raise KilledError


@pytest.mark.parametrize("saves", [1, 7, 19])
def test_interrupted_training_ends_with_the_same_bits(tmp_path, saves):
    schedule = training.Schedule(200, peak_rate=1e-2, checks=20, patience=20)
    whole = run(schedule)
    with pytest.raises(KilledError):
        run(schedule, Fragile(tmp_path, saves))
    resumed = run(schedule, TrainingFolder(tmp_path))
    assert resumed.curve == whole.curve
    for a, b in zip(jax.tree.leaves(resumed.network), jax.tree.leaves(whole.network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_damaged_store_is_a_fresh_start(tmp_path):
    schedule = training.Schedule(40, checks=4)
    (tmp_path / "x.eqx").write_bytes(b"half a file")
    assert run(schedule, TrainingFolder(tmp_path)).curve == run(schedule).curve


def stored(trained, problem, method="psvae"):
    described = checkpoint.describe(problem, propagated=True)
    return Checkpoint(method, described, trained, ("01", "02"), "9.9")


@pytest.fixture(scope="module")
def mt():
    return problems.problem(pulsed=True, frequency_mhz=127.73)


@pytest.mark.parametrize("kind", ["standard", "paper"])
def test_checkpoints_come_back_bit_by_bit(mt, kind):
    made = network(inputs=46)
    if kind == "paper":
        made = paper.PaperNetwork.initial(34, paper.PSVAE, jax.random.key(3))
    trained = training.Trained(made, (("prior", 10, 1.5, 2.5),))
    weights, record = checkpoint.to_stored(stored(trained, mt))
    back = checkpoint.from_stored(weights, json.loads(json.dumps(record)))
    assert back.subjects == ("01", "02")
    assert back.trained.curve == trained.curve
    assert not checkpoint.differences(back.problem, checkpoint.describe(mt, True))
    for a, b in zip(jax.tree.leaves(back.trained.network), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(a, b)


OTHERS = {
    "field in T": lambda p: dataclasses.replace(
        p, protocol=dataclasses.replace(p.protocol, frequency_mhz=123.25)
    ),
    "volumes": lambda p: dataclasses.replace(
        p, protocol=dataclasses.replace(p.protocol, blocks=p.protocol.blocks[:-4],
                                        is_m0=p.protocol.is_m0[:-1])
    ),
    "free parameters": lambda p: dataclasses.replace(
        p, free=(dataclasses.replace(p.free[0], high=20.0), p.free[1])
    ),
    "constants": lambda p: dataclasses.replace(
        p, constants=tuple((n, v * 1.1) for n, v in p.constants)
    ),
    "MT convention": lambda p: dataclasses.replace(
        p, model=dataclasses.replace(p.model, mt="xyz")
    ),
    "normalization": lambda p: dataclasses.replace(p, normalization="m0"),
    "solver": lambda p: dataclasses.replace(p, solver="isar2"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_problem_is_named(mt, what):
    lines = checkpoint.differences(
        checkpoint.describe(mt, True), checkpoint.describe(OTHERS[what](mt), True)
    )
    assert lines
    assert all(line.startswith(what) for line in lines if what != "volumes")
    assert any(line.startswith(what) for line in lines)


def test_what_differs_alike_in_all_volumes_is_said_once(mt):
    blocks = tuple(
        dataclasses.replace(b, n_shots=b.n_shots + 1) if isinstance(b, Readout) else b
        for b in mt.protocol.blocks
    )
    other = dataclasses.replace(mt, protocol=dataclasses.replace(mt.protocol, blocks=blocks))
    shots = next(b.n_shots for b in blocks if isinstance(b, Readout))
    (line,) = checkpoint.differences(
        checkpoint.describe(mt, True), checkpoint.describe(other, True)
    )
    where = f"volumes readout n_shots (all {mt.protocol.n_volumes})"
    assert line == f"{where}: {shots - 1} in the checkpoint, {shots} here"


def test_another_days_frequency_and_solver_fit(mt):
    other = dataclasses.replace(
        mt, protocol=dataclasses.replace(mt.protocol, frequency_mhz=127.7307), solver="reduced"
    )
    assert not checkpoint.differences(
        checkpoint.describe(mt, True), checkpoint.describe(other, True)
    )
    assert checkpoint.differences(checkpoint.describe(mt, True), checkpoint.describe(mt, False))


@pytest.mark.parametrize("damage", ["format", "key", "weights", "names", "nan"])
def test_damaged_checkpoints_are_refused(mt, damage):
    weights, record = checkpoint.to_stored(stored(training.Trained(network(inputs=46)), mt))
    if damage == "format":
        record["Format"] = 99
    elif damage == "key":
        del record["SubjectsSeen"]
    elif damage == "weights":
        weights = weights[: len(weights) // 2]
    elif damage == "names":
        record["Network"]["inputs"] = 45
    else:
        bad = network(inputs=46)
        bad = jax.tree.map(lambda x: x * jnp.nan if x.dtype.kind == "f" else x, bad)
        weights, _ = checkpoint.to_stored(stored(training.Trained(bad), mt))
    with pytest.raises(ValueError, match=r".+"):
        checkpoint.from_stored(weights, record)
