"""Trained networks as bytes and plain values, with what they were trained for.

A network answers for one problem only: `describe` puts a problem into words and numbers that can be
stored beside the weights, and `differences` says how two of them differ.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
import safetensors.numpy

from cestprep.inference import paper
from cestprep.inference.network import Network
from cestprep.inference.paper import PaperNetwork
from cestprep.inference.problem import InverseProblem
from cestprep.inference.training import Trained
from cestprep.physics.constants import GAMMA_HZ_PER_UT
from cestprep.physics.waveforms import Waveform

FORMAT = 2
_PUBLISHED = {"nbmf": paper.NBMF, "psvae": paper.PSVAE}
#: Fields that agree to this are alike (scanners' frequencies differ from day to day).
_RELATIVE = 2e-3
_MOST_DIFFERENCES = 4
#: Columns of the curve of training.
_CURVE = ("part", "step", "loss in training", "loss of voxels kept aside")


class DamagedWeightsError(ValueError):
    """Weights that do not belong to their record or are no numbers."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it is good for.

    Attributes
    ----------
    method : str
    problem : mapping
        From `describe`.
    trained : Trained
    subjects : tuple of str
        Whose voxels it was trained on.
    version : str
        Of the package that trained it.
    options : mapping
        Of the method, all of them, as values JSON can hold.
    seed : int
    """

    method: str
    problem: Mapping[str, Any]
    trained: Trained
    subjects: tuple[str, ...]
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def describe(problem: InverseProblem, propagated: bool) -> dict[str, Any]:
    """What a network must have been trained for, as values JSON can hold.

    Parameters
    ----------
    problem : InverseProblem
    propagated : bool
        Whether errors of known parameters are told to the network.
    """
    protocol, model = problem.protocol, problem.model
    return {
        "field in T": protocol.frequency_mhz / GAMMA_HZ_PER_UT,
        "volumes": [dict(_flat(v)) for v in protocol.volumes],
        "M0 volumes": list(protocol.is_m0),
        "carrier phase": protocol.carrier_phase,
        "pools": [_text(pool) for pool in model.pools],
        "MT convention": model.mt,
        "pools rebalance": model.pools_rebalance,
        "B1 scales readout": model.b1_scales_readout,
        "free parameters": [
            f"{f.name}: {f.parameter}, {f.low:g} to {f.high:g} {f.unit}" for f in problem.free
        ],
        "constants": [f"{name} = {value:g}" for name, value in sorted(problem.constants)],
        "known parameters": list(problem.known_parameters),
        "normalization": problem.normalization,
        "solver": "isar2" if problem.solver == "isar2" else "exact",
        "uncertainty of known parameters": "propagated" if propagated else "ignored",
    }


def _text(item: Any) -> str:
    """A frozen dataclass in words that do not depend on how arrays print."""
    if isinstance(item, Waveform):
        return item.digest.hex()[:12]
    if isinstance(item, float):
        return f"{item:.6g}"
    if isinstance(item, tuple):
        return ", ".join(_text(x) for x in item)
    if not is_dataclass(item):
        return str(item)
    inside = ", ".join(f"{f.name} {_text(getattr(item, f.name))}" for f in fields(item) if f.init)
    return f"{type(item).__name__}({inside})"


def _flat(item: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers of a volume by the words that lead to them."""
    if isinstance(item, Waveform) or not (is_dataclass(item) or isinstance(item, tuple)):
        yield name, item if isinstance(item, int) else _text(item)
    elif isinstance(item, tuple):
        for i, x in enumerate(item, start=1):
            word = type(x).__name__.lower()
            yield from _flat(x, word if len(item) == 1 else f"{i}, {word}")
    else:
        for f in (inside := [f for f in fields(item) if f.init]):
            yield from _flat(getattr(item, f.name), f"{name} {f.name}".strip())
        if not inside:  # a spoiler
            yield name, "played"


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """How a checkpoint's problem differs from the one at hand, a line each; empty if it fits."""
    found = []
    for key in dict.fromkeys([*ours, *theirs]):
        found += _different(key, theirs.get(key), ours.get(key))
    return found


def _different(key: str, theirs: Any, ours: Any) -> list[str]:
    if isinstance(theirs, float | int) and isinstance(ours, float):
        alike = math.isclose(theirs, ours, rel_tol=_RELATIVE)
        return [] if alike else [f"{key}: {theirs:.4g} in the checkpoint, {ours:.4g} here"]
    if isinstance(theirs, list) and isinstance(ours, list):
        if len(theirs) != len(ours):
            return [f"{key}: {len(theirs)} in the checkpoint, {len(ours)} here"]
        lines = list(_differing(key, theirs, ours))
        more = len(lines) - _MOST_DIFFERENCES
        return lines[:_MOST_DIFFERENCES] + ([f"{key}: {more} more differ"] if more > 0 else [])
    return [] if theirs == ours else [f"{key}: {theirs} in the checkpoint, {ours} here"]


def _differing(key: str, theirs: list[Any], ours: list[Any]) -> Iterator[str]:
    """Lines about entries that differ; what differs alike in several is said once."""
    alike: dict[tuple[str, str, str], list[int]] = {}
    for number, pair in enumerate(zip(theirs, ours, strict=True), start=1):
        a, b = (x if isinstance(x, Mapping) else {"": x} for x in pair)
        for name in dict.fromkeys([*a, *b]):
            if a.get(name) != b.get(name):
                said = name, str(a.get(name, "nothing")), str(b.get(name, "nothing"))
                alike.setdefault(said, []).append(number)
    for (name, there, here), numbers in alike.items():
        where = ", ".join(map(str, numbers[:_MOST_DIFFERENCES]))
        where += f" and {more} more" if (more := len(numbers) - _MOST_DIFFERENCES) > 0 else ""
        where = f"all {len(ours)}" if len(numbers) == len(ours) > 1 else f"number {where}"
        what = f" {name}" if name else ""
        yield f"{key}{what} ({where}): {there} in the checkpoint, {here} here"


def to_stored(checkpoint: Checkpoint) -> tuple[bytes, dict[str, Any]]:
    """Weights in safetensors format, and everything else as values JSON can hold."""
    network = checkpoint.trained.network
    first = network.layers[0] if isinstance(network, PaperNetwork) else network.first
    weights = safetensors.numpy.save(_named(network))
    record = {
        "Format": FORMAT,
        "WeightsSHA256": hashlib.sha256(weights).hexdigest(),
        "Method": checkpoint.method,
        "Version": checkpoint.version,
        "SubjectsSeen": list(checkpoint.subjects),
        "Network": {
            "kind": "paper" if isinstance(network, PaperNetwork) else "standard",
            "inputs": first.in_features,
            "parameters": getattr(network, "n_parameters", 2),
        },
        "Problem": dict(checkpoint.problem),
        "Options": dict(checkpoint.options),
        "Seed": checkpoint.seed,
        "TrainingCurve": {
            "Columns": list(_CURVE),
            "Rows": [list(row) for row in checkpoint.trained.curve],
        },
    }
    return weights, record


def from_stored(weights: bytes, record: Mapping[str, Any]) -> Checkpoint:
    """What `to_stored` made.

    Raises
    ------
    DamagedWeightsError
        If the weights are not those of the record, or not finite.
    ValueError
        If the record is of another format or damaged.
    """
    try:
        if record["Format"] != FORMAT:
            raise ValueError(f"is of format {record['Format']!r}, this version reads {FORMAT}")
        if record["WeightsSHA256"] != hashlib.sha256(weights).hexdigest():
            raise DamagedWeightsError("is damaged, or not the one its record was written with")
        blank = _blank(record["Method"], **record["Network"])
        curve = record["TrainingCurve"]["Rows"]
        trained = Trained(
            _filled(blank, safetensors.numpy.load(weights)),
            tuple((str(n), int(s), float(a), float(b)) for n, s, a, b in curve),
        )
        return Checkpoint(
            str(record["Method"]),
            dict(record["Problem"]),
            trained,
            _texts(record["SubjectsSeen"]),
            str(record["Version"]),
            dict(record["Options"]),
            int(record["Seed"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise ValueError(f"is no checkpoint of this package ({exc!r})") from None
    except safetensors.SafetensorError as exc:
        raise DamagedWeightsError(f"is damaged ({exc})") from None


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(x, str) for x in values):
        raise TypeError("SubjectsSeen is no list of texts")
    return tuple(values)


def _blank(method: str, kind: str, inputs: int, parameters: int) -> Any:
    if not (0 < inputs < 10_000 and 0 < parameters < 20):
        raise ValueError(f"is of a network of {inputs} inputs and {parameters} parameters")
    key = jax.random.key(0)
    if kind == "paper":
        return PaperNetwork.initial(inputs, _PUBLISHED[method], key)
    return Network.initial(np.zeros((inputs, 2)), parameters, key)


def _named(network: Any) -> dict[str, np.ndarray]:
    arrays = jax.tree_util.tree_leaves_with_path(eqx.filter(network, eqx.is_array))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in arrays}


def _filled(network: Any, named: Mapping[str, np.ndarray]) -> Any:
    """The network with arrays taken by name."""
    expected = _named(network)
    if expected.keys() != named.keys():
        raise DamagedWeightsError("holds the weights of another network")
    for name, leaf in expected.items():
        found = named[name]
        if found.shape != leaf.shape or found.dtype != leaf.dtype or not np.isfinite(found).all():
            raise DamagedWeightsError(f"is damaged at {name}")
    arrays, static = eqx.partition(network, eqx.is_array)
    leaves = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.numpy.asarray(named[jax.tree_util.keystr(path)], leaf.dtype), arrays
    )
    return eqx.combine(leaves, static)
