"""The inheritance principle: which sidecar and which table belong to an image.

pybids' own ``get_nearest`` gives another series' table when the right one is missing, so the rule
is applied to names here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cestprep.bids.files import read_json
from cestprep.errors import Fault, InputError


def parse_name(name: str) -> tuple[dict[str, str], str, str]:
    """Entities, suffix and extension of a BIDS file name."""
    stem, _, extension = name.partition(".")
    *entities, suffix = stem.split("_")
    return dict(e.split("-", 1) for e in entities if "-" in e), suffix, f".{extension}"


def companion(image: Path, extension: str) -> Path:
    """File of another extension beside an image."""
    return image.with_name(image.name.partition(".")[0] + extension)


#: Entities a derivative keeps from its source, by pybids' names.
SOURCE_ENTITIES = {
    "task": "task",
    "acq": "acquisition",
    "ce": "ceagent",
    "rec": "reconstruction",
    "dir": "direction",
    "run": "run",
    "echo": "echo",
    "part": "part",
}


def source_entities(image: Path) -> dict[str, str]:
    """Entities of a series that the names of its derivatives keep."""
    entities = parse_name(image.name)[0]
    return {SOURCE_ENTITIES[key]: entities[key] for key in SOURCE_ENTITIES if key in entities}


def applicable(image: Path, root: Path, suffix: str, extension: str) -> list[Path]:
    """Files of a suffix and extension that apply to ``image``, nearest and most specific first.

    Raises
    ------
    InputError
        If two files of one folder apply equally.
    """
    own = parse_name(image.name)[0]
    found: list[Path] = []
    for folder in (image.parent, *image.parent.parents):
        here = []
        for candidate in sorted(folder.glob(f"*{suffix}{extension}")):
            entities, its_suffix, its_extension = parse_name(candidate.name)
            if (its_suffix, its_extension) == (
                suffix,
                extension,
            ) and entities.items() <= own.items():
                here.append(candidate)
        here.sort(key=lambda p: -len(parse_name(p.name)[0]))
        if len(here) > 1 and len({len(parse_name(p.name)[0]) for p in here}) < len(here):
            names = ", ".join(p.name for p in here)
            raise InputError(
                Fault(image, f"{names} apply to it equally", "Keep one of them, or name it closer")
            )
        found += here
        if folder == root:
            break
    return found


def metadata(image: Path, root: Path) -> dict[str, Any]:
    """Sidecar fields of an image, nearer files winning over farther ones.

    Raises
    ------
    InputError
        If one of the files cannot be read.
    """
    merged: dict[str, Any] = {}
    for sidecar in reversed(applicable(image, root, parse_name(image.name)[1], ".json")):
        merged |= read_json(sidecar)
    return merged
