"""Paths of derivatives by the patterns of CEST-BIDS."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Protocol

from cestprep.bids.spec import DATATYPE, MAP_FOLDERS, MAP_SUFFIXES, MASK, PYBIDS_CONFIG, SPACE


class Labelled(Protocol):
    """Anything that belongs to a participant and perhaps a session."""

    @property
    def subject(self) -> str:
        """Label of the participant."""
        ...

    @property
    def session(self) -> str | None:
        """Label of the session."""
        ...


@cache
def _patterns() -> list[str]:
    patterns: list[str] = json.loads(PYBIDS_CONFIG.read_text())["default_path_patterns"]
    return patterns


def derivative_path(
    out_dir: Path, whose: Labelled, suffix: str, extension: str = ".nii.gz", **entities: str
) -> Path:
    """Path of a derivative, in ``cest/`` unless ``datatype`` says otherwise.

    Raises
    ------
    ValueError
        If no pattern takes all the entities.
    """
    from bids.layout.writing import build_path

    wanted = {"subject": whose.subject, "session": whose.session, "datatype": DATATYPE}
    wanted |= {"suffix": suffix, "extension": extension, **entities}
    path = build_path({k: v for k, v in wanted.items() if v}, _patterns(), strict=True)
    if path is None:
        raise ValueError(f"no CEST-BIDS path pattern takes {wanted}")
    return out_dir / str(path)


def auxiliary_path(out_dir: Path, whose: Labelled, quantity: str, **entities: str) -> Path:
    """Path of a map of T1, T2, B0 or B1 on the grid of the reference."""
    where = {"datatype": MAP_FOLDERS[quantity], "space": SPACE}
    return derivative_path(out_dir, whose, MAP_SUFFIXES[quantity], **where, **entities)


def mask_path(out_dir: Path, whose: Labelled, desc: str) -> Path:
    """Path of a mask on the grid of the reference."""
    return derivative_path(out_dir, whose, MASK, space=SPACE, desc=desc)
