"""``cestprep-tools validate``: is a dataset CEST-BIDS."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep.errors import Fault, UsageError

if TYPE_CHECKING:
    from cestprep.bids.validation import Report

_WITHOUT = (
    "note: the official validator did not judge (pip install 'cestprep[validate]'); names, "
    "required fields and cross-checks were looked at, the rest of BIDS was not"
)


def add_validate(commands: Any) -> None:
    """Add the subcommand to ``cestprep-tools``."""
    parser = commands.add_parser(
        "validate",
        help="check a CEST-BIDS dataset",
        description="Check a raw or derivative dataset: the official BIDS validator with the "
        "CEST-BIDS schema, offline, and what no schema can say (rows and volumes, M0, .seq against "
        "table, units, WASABI offsets, grids). Exit code 0 valid, 1 errors, 2 not to be checked.",
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="top folder of the dataset")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    parser.add_argument(
        "--warnings", action="store_true", help="print also which recommended fields are missing"
    )
    parser.add_argument(
        "--stock",
        action="store_true",
        help="by the released BIDS standard instead, which its .bidsignore must satisfy",
    )
    parser.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> int:
    from cestprep.bids.validation import validate

    root = options.dataset
    if not root.is_dir():
        raise UsageError(Fault(root, "is not a folder", "Give the top folder of a dataset"))
    if not any(root.glob("sub-*")) and not (root / "dataset_description.json").exists():
        what = "holds neither dataset_description.json nor sub-<label>"
        raise UsageError(Fault(root, what, "Give the top folder of a dataset"))
    report = validate(root.resolve(), stock=options.stock)
    errors = len(report.errors)
    if options.json:
        found = [finding.as_dict() for finding in report.findings]
        print(json.dumps({"official": report.official, "findings": found}, indent=1))
    else:
        _print(root, report, advice=options.warnings)
    if not report.official:
        print(_WITHOUT, file=sys.stderr)
    return int(errors > 0)


def _print(root: Path, report: Report, *, advice: bool) -> None:
    """Errors and warnings one by one, advice by the field it is about."""
    for finding in (*report.errors, *report.warnings):
        print(finding)
    fields: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.is_advice:
            fields.setdefault(finding.rule, []).append(finding.file)
    for rule, files in fields.items() if advice else ():
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        print(f"advice {rule}: {files[0]}{others}")
    hint = "" if advice or not fields else " (--warnings lists them)"
    print(f"{root}: {len(report.errors)} errors, {len(report.warnings)} warnings, "
          f"{len(fields)} recommended fields missing{hint}")  # fmt: skip
