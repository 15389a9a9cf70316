"""``cestprep-tools validate``: is a dataset CEST-BIDS."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cestprep.errors import Fault, UsageError

_WITHOUT = (
    "note: the official validator is not installed (pip install 'cestprep[validate]'); names, "
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
    parser.add_argument("--warnings", action="store_true", help="print warnings too")
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
    errors, total = len(report.errors), len(report.findings)
    shown = report.findings if options.warnings or options.json else report.errors
    if options.json:
        found = [finding.as_dict() for finding in shown]
        print(json.dumps({"official": report.official, "findings": found}, indent=1))
    else:
        for finding in shown:
            print(finding)
        print(f"{root}: {errors} errors, {total - errors} warnings")
    if not report.official:
        print(_WITHOUT, file=sys.stderr)
    return int(errors > 0)
