"""Trained networks as bytes and plain values, with what they were trained for.

A network answers for one problem only: `describe` puts a problem into words and numbers that can be
stored beside the weights, and `differences` says how two of them differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
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

FORMAT = 1
_PUBLISHED = {"nbmf": paper.NBMF, "psvae": paper.PSVAE}
#: Fields that agree to this are alike (scanners' frequencies differ from day to day).
_RELATIVE = 2e-3
_MOST_DIFFERENCES = 4


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
    """

    method: str
    problem: Mapping[str, Any]
    trained: Trained
    subjects: tuple[str, ...]
    version: str


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
        "volumes": [_text(v) for v in protocol.volumes],
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
        pairs = zip(theirs, ours, strict=True)
        lines = [
            f"{key}, number {i}: {a} in the checkpoint, {b} here"
            for i, (a, b) in enumerate(pairs, start=1)
            if a != b
        ]
        more = len(lines) - _MOST_DIFFERENCES
        return lines[:_MOST_DIFFERENCES] + ([f"{key}: {more} more differ"] if more > 0 else [])
    return [] if theirs == ours else [f"{key}: {theirs} in the checkpoint, {ours} here"]


def to_stored(checkpoint: Checkpoint) -> tuple[bytes, dict[str, Any]]:
    """Weights in safetensors format, and everything else as values JSON can hold."""
    network = checkpoint.trained.network
    first = network.layers[0] if isinstance(network, PaperNetwork) else network.first
    record = {
        "Format": FORMAT,
        "Method": checkpoint.method,
        "Version": checkpoint.version,
        "SubjectsSeen": list(checkpoint.subjects),
        "Network": {
            "kind": "paper" if isinstance(network, PaperNetwork) else "standard",
            "inputs": first.in_features,
            "parameters": getattr(network, "n_parameters", 2),
        },
        "Problem": dict(checkpoint.problem),
        "TrainingCurve": [list(row) for row in checkpoint.trained.curve],
    }
    return safetensors.numpy.save(_named(network)), record


def from_stored(weights: bytes, record: Mapping[str, Any]) -> Checkpoint:
    """What `to_stored` made.

    Raises
    ------
    ValueError
        If it is of another format or damaged.
    """
    try:
        if record["Format"] != FORMAT:
            raise ValueError(f"format {record['Format']!r}, this version reads {FORMAT}")
        blank = _blank(record["Method"], **record["Network"])
        trained = Trained(
            _filled(blank, safetensors.numpy.load(weights)),
            tuple((str(n), int(s), float(a), float(b)) for n, s, a, b in record["TrainingCurve"]),
        )
        return Checkpoint(
            str(record["Method"]),
            dict(record["Problem"]),
            trained,
            tuple(map(str, record["SubjectsSeen"])),
            str(record["Version"]),
        )
    except (KeyError, TypeError, AttributeError, safetensors.SafetensorError) as exc:
        raise ValueError(f"not a checkpoint of this package ({exc!r})") from None


def _blank(method: str, kind: str, inputs: int, parameters: int) -> Any:
    if not (0 < inputs < 10_000 and 0 < parameters < 20):
        raise ValueError(f"a network of {inputs} inputs and {parameters} parameters")
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
        raise ValueError("weights of another network")
    for name, leaf in expected.items():
        if named[name].shape != leaf.shape or not np.isfinite(named[name]).all():
            raise ValueError(f"weights {name} are damaged")
    arrays, static = eqx.partition(network, eqx.is_array)
    leaves = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jax.numpy.asarray(named[jax.tree_util.keystr(path)], leaf.dtype), arrays
    )
    return eqx.combine(leaves, static)
