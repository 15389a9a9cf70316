"""File names and required fields by the extended schema in Python alone, for want of the extra."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cestprep.bids.files import read_json
from cestprep.bids.sidecars import companion, metadata, parse_name
from cestprep.bids.spec import MAP, PREPARED, PULSE_FIELDS, REPORT_BIDSIGNORE, SERIES, SERIES_FIELDS
from cestprep.bids.spec.schema import extended
from cestprep.bids.validation.finding import Finding, relative
from cestprep.bids.validation.official import read_ignored
from cestprep.errors import InputError

#: What lies beside the data; the official validator leaves these out too.
_ASIDE = ("derivatives", "sourcedata", "code", "logs", "models", "networks")


@cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    from bidsschematools.rules import regexify_filename_rules
    from bidsschematools.types import Namespace

    schema = Namespace.build(extended())
    rules = schema["rules"]["files"].values()
    found = [rule for group in rules for rule in regexify_filename_rules(group, schema, level=2)]
    return tuple(re.compile(rule["regex"]) for rule in found)


def findings(root: Path) -> list[Finding]:
    """Names that no rule knows and fields that are missing."""
    return [*_names(root), *_fields(root)]


def _files(root: Path) -> Iterator[Path]:
    for top in sorted(root.iterdir()):
        if top.name.startswith(".") or top.name in _ASIDE:
            continue
        yield from (top,) if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())


def _names(root: Path) -> Iterator[Finding]:
    ignored = _ignored(root)
    for path in _files(root):
        name = relative(path, root)
        if not any(p.fullmatch(name) for p in _patterns()) and not ignored(path):
            what = "no rule of BIDS or CEST-BIDS has a file of this name here"
            yield Finding(name, "NOT_INCLUDED", what, "Correct entities, suffix, folder or ending")


def _ignored(root: Path) -> Any:
    """Whether the last part of a path matches a pattern of reports in ``.bidsignore``."""
    patterns = [line.strip() for line in read_ignored(root) if line.strip() in REPORT_BIDSIGNORE]
    return lambda path: any(path.match(p) or p.strip("*/") in path.parts for p in patterns)


def _fields(root: Path) -> Iterator[Finding]:
    description = root / "dataset_description.json"
    derivative = False
    try:
        about = read_json(description)
        derivative = about.get("DatasetType") == "derivative"
        missing = [key for key in ("Name", "BIDSVersion") if key not in about]
    except InputError as exc:
        missing = []
        fault = exc.faults[0]
        yield Finding(description.name, "MISSING_DATASET_DESCRIPTION", fault.what, fault.mend)
    for key in missing:
        yield Finding(description.name, f"JSON_KEY_REQUIRED {key}", "is missing", "Add the field")
    for path in _files(root):
        entities, suffix, extension = parse_name(path.name)
        if extension == ".json":
            yield from _values(path, root)
        if extension in (".nii", ".nii.gz"):
            for key in _needed(path, root, suffix, entities, derivative):
                what = f"{key} is missing from its sidecar"
                name = relative(path, root)
                yield Finding(name, f"SIDECAR_KEY_REQUIRED {key}", what, "Add the field")


def _values(sidecar: Path, root: Path) -> Iterator[Finding]:
    """Fields whose values the schema has no room for."""
    from jsonschema import Draft202012Validator

    known = extended()["objects"]["metadata"]
    try:
        fields = read_json(sidecar)
    except InputError as exc:
        yield Finding(relative(sidecar, root), "JSON_INVALID", exc.faults[0].what, "Mend the file")
        return
    for key, value in fields.items():
        if key in known and not Draft202012Validator(known[key]).is_valid(value):
            what = f"{key} is {value!r}, which the schema does not allow"
            rule, mend = f"JSON_SCHEMA_VALIDATION_ERROR {key}", "Correct the value"
            yield Finding(relative(sidecar, root), rule, what, mend)


def _needed(
    image: Path, root: Path, suffix: str, entities: dict[str, str], derivative: bool
) -> list[str]:
    """Required fields that an image lacks."""
    needed: list[str] = []
    try:
        fields = metadata(image, root)
    except InputError:
        return []
    if suffix == SERIES and "desc" not in entities:
        needed += SERIES_FIELDS
        if not companion(image, ".seq").exists():
            needed += [] if "PulseqFile" in fields else PULSE_FIELDS
    needed += [PREPARED[suffix]] if suffix in PREPARED else []
    if suffix == MAP and derivative:
        needed += ["Units", *(["Model"] if "model" in entities else [])]
    return [key for key in needed if key not in fields]
