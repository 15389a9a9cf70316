"""Trained networks in files: ``<stem>.safetensors`` with the weights, ``<stem>.json`` beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx

from cestprep.bids.files import read_json, replacing, write_json
from cestprep.errors import Fault, InputError
from cestprep.inference.checkpoint import Checkpoint, differences, from_stored, to_stored

SUFFIX = "network"


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
    InputError
        If one of them is missing, damaged or of another version.
    """
    weights = path.with_suffix(".safetensors")
    try:
        return from_stored(weights.read_bytes(), read_json(path))
    except OSError as exc:
        reason = f"cannot be read ({exc.strerror})"
        raise InputError(Fault(weights, reason, "Copy the checkpoint again")) from None
    except ValueError as exc:
        raise InputError(Fault(path, str(exc), "Train it again with this version")) from None


def find_networks(
    folder: Path, stages: Sequence[str], subject: str, method: str
) -> dict[str, Path]:
    """Records of a checkpoint's networks by stage, for one subject.

    Where several methods left theirs, as fits into one output folder do, those of ``method`` count.
    A folder of folders, as ``train --leave-one-out`` leaves it, offers those that have not seen
    the subject.

    Raises
    ------
    InputError
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
            mend = "Give a folder with one network for each stage, as train or a fit leaves it"
            faults.append(Fault(option, what, mend))
    if faults:
        raise InputError(*faults)
    return {stage: paths[0] for stage, paths in found.items()}


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
    path: Path, checkpoint: Checkpoint, method: str, problem: Mapping[str, Any]
) -> Fault | None:
    """Why a network cannot be used for a method and a problem, None if it can."""
    lines = differences(checkpoint.problem, problem)
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
