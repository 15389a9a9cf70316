"""Trained networks in files: ``<stem>.safetensors`` with the weights, ``<stem>.json`` beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx

from cestprep.bids.files import read_json, replacing, write_json
from cestprep.errors import Fault, InputError, UsageError
from cestprep.inference.checkpoint import (
    Checkpoint,
    DamagedWeightsError,
    differences,
    from_stored,
    to_stored,
)
from cestprep.inference.paper import PaperNetwork


def write_network(path: Path, checkpoint: Checkpoint, about: Mapping[str, Any]) -> list[Path]:
    """Write a network and what it is for; the weights first, so that a pair is complete.

    Parameters
    ----------
    path : Path
        Of the weights, ending in ``.safetensors``.
    checkpoint : Checkpoint
    about : mapping
        Further fields of the JSON file, ``Stage`` among them.
    """
    weights, record = to_stored(checkpoint)
    with replacing(path) as temporary:
        temporary.write_bytes(weights)
    return [path, write_json(path.with_suffix(".json"), {**about, **record})]


def read_network(path: Path) -> Checkpoint:
    """Network of a JSON file and the weights beside it.

    Raises
    ------
    UsageError
        If one of them is missing, damaged or of another version.
    """
    weights, again = path.with_suffix(".safetensors"), "Copy both files again, or train anew"
    try:
        return from_stored(weights.read_bytes(), read_json(path))
    except InputError as exc:
        raise UsageError(*exc.faults) from None
    except OSError as exc:
        raise UsageError(Fault(weights, f"cannot be read ({exc.strerror})", again)) from None
    except DamagedWeightsError as exc:
        raise UsageError(Fault(weights, str(exc), again)) from None
    except ValueError as exc:
        raise UsageError(Fault(path, str(exc), "Train it again with this version")) from None


def find_networks(
    folder: Path, stages: Sequence[str], subject: str, method: str
) -> dict[str, Path]:
    """Records of a checkpoint's networks by stage, for one subject.

    Where several methods left theirs, as fits into one output folder do, those of ``method`` count.
    A folder of folders, as ``train --leave-one-out`` leaves it, offers those that have not seen
    the subject.

    Raises
    ------
    UsageError
        If a stage has none or several.
    """
    option = f"--checkpoint {folder}"
    records = {p: read_json(p) for p in sorted(folder.glob("*.json")) if _has_weights(p)}
    found = {stage: _of_stage(records, stage, method) for stage in stages}
    if not any(found.values()):
        below = {p: read_json(p) for p in sorted(folder.glob("*/*.json"))}
        records = {p: r for p, r in below.items() if _has_weights(p) and not _saw(r, subject)}
        found = {stage: _of_stage(records, stage, method) for stage in stages}
    faults = []
    for stage, paths in found.items():
        if len(paths) != 1:
            names = ", ".join(str(p.relative_to(folder)) for p in paths) or "none"
            what = f"holds {len(paths)} networks of stage {stage} for sub-{subject} ({names})"
            faults.append(Fault(option, what + _halves(folder), _remedy(paths)))
    if faults:
        raise UsageError(*faults)
    return {stage: paths[0] for stage, paths in found.items()}


def _halves(folder: Path) -> str:
    """Words about files that lack the other half of a network."""
    files = (*folder.glob("*_network.*"), *folder.glob("*/*_network.*"))
    names = {p.with_suffix("") for p in files}
    pairs = [(p.with_suffix(".json"), p.with_suffix(".safetensors")) for p in sorted(names)]
    lone = [p.name for pair in pairs for p in pair if not p.exists()]
    return f"; missing: {', '.join(lone)}" if lone else ""


def _remedy(found: Sequence[Path]) -> str:
    if len({p.parent for p in found}) > 1:
        return (
            "Every network there was trained without this participant: give the folder of one of "
            "them, or networks/pretrained, trained on all"
        )
    return "Give a folder with one network for each stage, as train or a fit leaves it"


def _has_weights(record: Path) -> bool:
    return record.with_suffix(".safetensors").exists()


def _of_stage(records: Mapping[Path, Mapping[str, Any]], stage: str, method: str) -> list[Path]:
    """Networks of a stage; those of the method, if there are any."""
    found = [p for p, record in records.items() if record.get("Stage") == stage]
    return [p for p in found if records[p].get("Method") == method] or found


def _saw(record: Mapping[str, Any], subject: str) -> bool:
    seen = record.get("SubjectsSeen", [])
    return isinstance(seen, list) and subject in seen


def fault_of(
    path: Path, checkpoint: Checkpoint, method: str, published: bool, problem: Mapping[str, Any]
) -> Fault | None:
    """Why a network cannot be used for a method, its paper mode and a problem; None if it can."""
    lines = differences(checkpoint.problem, problem)
    of_paper = isinstance(checkpoint.trained.network, PaperNetwork)
    if of_paper != published:
        words = {True: "paper=true", False: "paper=false"}
        lines.insert(0, f"trained with {words[of_paper]}, asked with {words[published]}")
    if checkpoint.method != method:
        lines.insert(0, f"method: {checkpoint.method} in the checkpoint, {method} here")
    if not lines:
        return None
    what = f"was trained for something else ({'; '.join(lines)})"
    return Fault(path, what, "Use a network trained for this, or fit without --checkpoint")


class TrainingFolder:
    """Where an interrupted training is kept: a file per part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '_')}.eqx"

    def load(self, name: str, like: Any) -> Any | None:
        """Pytree saved under a name; None if absent or not readable as one like this."""
        try:
            return eqx.tree_deserialise_leaves(self._path(name), like)
        except (OSError, RuntimeError, ValueError, EOFError):
            return None

    def save(self, name: str, tree: Any) -> None:
        """Keep a pytree under a name."""
        with replacing(self._path(name)) as temporary, temporary.open("wb") as handle:
            eqx.tree_serialise_leaves(handle, tree)
