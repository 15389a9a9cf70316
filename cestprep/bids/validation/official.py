"""The official BIDS validator with the extended schema, offline."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cestprep.bids.spec import (
    DERIVATIVE_BIDSIGNORE,
    PREPARED,
    RAW_BIDSIGNORE,
    REPORT_BIDSIGNORE,
    TABLED,
)
from cestprep.bids.spec.schema import extended
from cestprep.bids.validation.finding import Finding, Severity
from cestprep.errors import Fault, UsageError
from cestprep.resources import installed_program

_PROGRAM = "bids-validator-deno"
#: Exit codes of the program: valid, and errors found.
_DONE = (0, 16)
#: How to mend what its rules find; the rest is answered by the rule's name.
_MENDS = {
    "NOT_INCLUDED": "Rename it as CEST-BIDS or BIDS has it, or list it in .bidsignore",
    "ALL_FILENAME_RULES_HAVE_ISSUES": "Correct entities, their order, suffix or folder",
    "DATATYPE_MISMATCH": "Move the file into the folder its suffix belongs to",
    "SIDECAR_KEY_REQUIRED": "Add the field to the sidecar",
    "JSON_KEY_REQUIRED": "Add the field",
    "JSON_SCHEMA_VALIDATION_ERROR": "Correct the value",
    "TSV_COLUMN_MISSING": "Add the column",
    "TSV_VALUE_INCORRECT_TYPE": "Write a number, or n/a",
    "TSV_VALUE_INCORRECT_TYPE_NONREQUIRED": "Write a number, or n/a",
    "TSV_ADDITIONAL_COLUMNS_MUST_DEFINE": "Describe the column in a JSON file beside the table",
    "TSV_COLUMN_ORDER_INCORRECT": "Put volume_type first",
    "CEST_CONTEXT_MISSING": "Add the table of what was played before each volume",
    "CEST_SATURATION_MODULE_UNDEFINED": "Add the .seq file or the fields of the pulses",
    "CEST_M0SCAN_MISSING": "Add the m0scan with IntendedFor, or correct M0Type",
    "CEST_SERIES_NOT_4D": "Put all volumes of the series into one 4D file",
    "CEST_CONTEXT_WITHOUT_SATURATED_VOLUMES": "Correct the column volume_type",
    "MULTIPLE_INHERITABLE_FILES": "Keep one of them, or name it more closely",
    "SIDECAR_WITHOUT_DATAFILE": "Remove it, or add the image it describes",
    "EMPTY_FILE": "Copy the file again",
    "NIFTI_HEADER_UNREADABLE": "Copy or convert the image again",
    "FILE_READ": "Copy the file again",
}
_ASK = "See the rule in BIDS or in bids_spec/CEST-BIDS.md"


def program() -> Path | None:
    """The validator of this environment, activated or not; None without the extra."""
    found = installed_program(_PROGRAM)
    return None if found is None else Path(found)


def findings(dataset: Path, *, stock: bool = False) -> list[Finding]:
    """Errors and warnings of the official validator.

    Parameters
    ----------
    dataset : Path
    stock : bool
        By the released schema, with the dataset's own ``.bidsignore``.

    Raises
    ------
    UsageError
        If the validator is absent or does not run.
    """
    with tempfile.TemporaryDirectory(prefix="cestprep-validate-") as folder:
        if stock:
            return _run(dataset, [])
        schema = Path(folder) / "schema.json"
        schema.write_text(json.dumps(extended(), ensure_ascii=False), "utf-8")
        with _seen_whole(dataset, Path(folder) / "dataset") as view:
            return _run(view, ["--schema", schema.as_uri()])  # a plain path is no URL for it


def _run(dataset: Path, extra: list[str]) -> list[Finding]:
    exe = program()
    if exe is None:
        mend = "Install it: pip install 'cestprep[validate]'"
        raise UsageError(Fault(_PROGRAM, "is not installed", mend))
    command = [str(exe), str(dataset), "--format", "json", "--max-rows", "-1", "--no-color", *extra]
    environment = {k: v for k, v in os.environ.items() if k != "BIDS_SCHEMA"}  # it would win
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in _DONE:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(Fault(exe, f"failed ({reason})", "Install it again"))
    try:
        said = json.loads(done.stdout)["issues"]
    except ValueError:
        raise UsageError(Fault(exe, "gave no result", "Install it again")) from None
    return [_finding(issue, said.get("codeMessages", {})) for issue in said["issues"]]


def _finding(issue: dict[str, Any], messages: Mapping[str, str]) -> Finding:
    """Its own words, else those of its rule."""
    code = issue["code"]
    rule = " ".join(filter(None, (code, issue.get("subCode"))))
    known = issue.get("issueMessage") or messages.get(code) or issue.get("rule")
    text = " ".join((known or "breaks the rule").split())
    where = str(issue.get("location", "")).lstrip("/") or "dataset"
    severity: Severity = "error" if issue.get("severity") == "error" else "warning"
    return Finding(where, rule, text.rstrip("."), _MENDS.get(issue["code"], _ASK), severity)


def read_ignored(dataset: Path) -> list[str]:
    """Lines of ``.bidsignore``."""
    ignore = dataset / ".bidsignore"
    return ignore.read_text("utf-8", errors="replace").splitlines() if ignore.is_file() else []


def _hides(line: str) -> bool:
    """Whether a line of ``.bidsignore`` hides files of CEST-BIDS."""
    known = {*RAW_BIDSIGNORE, *DERIVATIVE_BIDSIGNORE} - set(REPORT_BIDSIGNORE)
    return line.strip() in known or any(suffix in line for suffix in (*TABLED, *PREPARED))


@contextmanager
def _seen_whole(dataset: Path, view: Path) -> Iterator[Path]:
    """The dataset without the lines of its ``.bidsignore`` that hide it from the released schema.

    They hide files from every schema: what passes the released one would pass ours unseen.
    """
    lines = read_ignored(dataset)
    kept = [line for line in lines if not _hides(line)]
    if kept == lines:
        yield dataset
        return
    view.mkdir()
    for entry in dataset.iterdir():
        if entry.name != ".bidsignore":
            (view / entry.name).symlink_to(entry.resolve(), target_is_directory=entry.is_dir())
    (view / ".bidsignore").write_text("\n".join(kept) + "\n", "utf-8")
    yield view
