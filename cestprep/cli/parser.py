"""Arguments of ``cestprep``."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cestprep import __version__
from cestprep.data import recipe_names
from cestprep.errors import Fault, UsageError
from cestprep.settings import Settings

EPILOG = """\
exit codes: 0 all asked sessions done; 1 some session failed; 2 command line or dataset;
65 no asked session has usable data; 70 internal error; 75 run again (worker killed);
130 and 143 stopped by SIGINT and SIGTERM"""


def _label(prefix: str) -> type:
    class Label(str):
        def __new__(cls, text: str) -> Label:
            return super().__new__(cls, text.removeprefix(prefix))

    Label.__name__ = "label"
    return Label


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name.isalnum() or not path:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=PATH (name of letters and digits), such as masks=/data/masks"
        )
    return name, Path(path)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def make_parser(methods: Sequence[str]) -> argparse.ArgumentParser:
    """Parser of the participant-level command."""
    parser = argparse.ArgumentParser(
        prog="cestprep",
        description="Exchange-parameter maps with uncertainty from CEST/MT fingerprinting MRI.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bids_dir", type=Path, help="CEST-BIDS dataset")
    parser.add_argument("out_dir", type=Path, help="folder of the derivatives")
    parser.add_argument("analysis_level", choices=["participant"], help="level of the analysis")
    parser.add_argument("--version", action="version", version=f"cestprep {__version__}")
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="say more (-vv: also what the workflow engine says)",
    )

    which = parser.add_argument_group("what to process")
    which.add_argument(
        "--participant-label",
        "--participant_label",
        nargs="+",
        action="extend",
        default=[],
        type=_label("sub-"),
        metavar="LABEL",
        help="participants (default: all)",
    )
    which.add_argument(
        "--session-label",
        "--session-id",
        nargs="+",
        action="extend",
        default=[],
        type=_label("ses-"),
        metavar="LABEL",
        help="sessions (default: all)",
    )
    which.add_argument(
        "--derivatives",
        nargs="+",
        action="extend",
        default=[],
        type=_named_path,
        metavar="NAME=PATH",
        help="derivative datasets with maps, brain masks (desc-brain_mask) and "
        "labelled regions; the first that has one wins, before the raw dataset",
    )
    which.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print per session what would be used, and stop",
    )

    how = parser.add_argument_group("estimation")
    how.add_argument(
        "--recipe",
        default="brain-3t",
        metavar="NAME|FILE",
        help=f"what to estimate: {', '.join(recipe_names())}, or a YAML file "
        "(default: %(default)s)",
    )
    how.add_argument(
        "--method",
        default="voxelwise",
        choices=methods,
        help="estimation method, written as desc-<method>; also the one the report "
        "and quality tables read (default: %(default)s)",
    )
    how.add_argument(
        "--assume-nominal",
        nargs="+",
        action="extend",
        default=[],
        choices=["B0", "B1"],
        metavar="{B0,B1}",
        help="take B0 as 0 and/or B1 as nominal for want of a map (an error where one exists)",
    )
    how.add_argument(
        "--random-seed",
        type=int,
        default=0,
        help="seed of methods that draw random numbers; voxelwise does not (default: 0)",
    )

    performance = parser.add_argument_group("performance")
    performance.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        help="working files; the same folder resumes an earlier run "
        "(default: a folder in the system's temporary directory)",
    )
    performance.add_argument(
        "--nprocs",
        type=_positive,
        default=len(os.sched_getaffinity(0)),
        help="steps that run at the same time (default: usable cores, %(default)s)",
    )
    return parser


def settings_of(options: argparse.Namespace) -> Settings:
    """Resolved settings.

    Raises
    ------
    UsageError
        If folders are missing or overlap.
    """
    bids_dir, out_dir = options.bids_dir.resolve(), options.out_dir.resolve()
    work_dir = (options.work_dir or _default_work_dir(bids_dir)).resolve()
    if not bids_dir.is_dir():
        raise UsageError(
            Fault(bids_dir, "is not a folder", "Give the top folder of a BIDS dataset")
        )
    own = bids_dir / "derivatives"
    if out_dir.is_relative_to(bids_dir) and own not in out_dir.parents:
        raise UsageError(
            Fault(
                out_dir,
                "lies inside the input dataset",
                f"Choose a folder such as {own / 'cestprep'}",
            )
        )
    if work_dir == out_dir:
        raise UsageError(Fault(work_dir, "is both -w and the output folder", "Choose another -w"))
    if work_dir == bids_dir or work_dir.is_relative_to(bids_dir):
        raise UsageError(
            Fault(work_dir, "the work directory lies inside the input dataset", "Choose another -w")
        )
    for folder in (out_dir, work_dir):
        _check_writable(folder)
    derivatives = tuple((name, path.resolve()) for name, path in options.derivatives)
    _check_derivatives(derivatives)
    return Settings(
        bids_dir=bids_dir,
        out_dir=out_dir,
        work_dir=work_dir,
        recipe=options.recipe,
        participants=tuple(map(str, options.participant_label)),
        sessions=tuple(map(str, options.session_label)),
        method=options.method,
        assume_nominal=tuple(dict.fromkeys(options.assume_nominal)),
        derivatives=derivatives,
        nprocs=options.nprocs,
        random_seed=options.random_seed,
        verbose=options.verbose,
    )


def _check_writable(folder: Path) -> None:
    """Whether a folder can be made or written into; nothing is left behind."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir():
        raise UsageError(Fault(existing, "is a file, expected a folder", "Choose another folder"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(Fault(existing, "cannot be written", "Choose another folder"))


def _check_derivatives(derivatives: Sequence[tuple[str, Path]]) -> None:
    names = [name for name, _ in derivatives]
    for name, path in derivatives:
        if names.count(name) > 1 or name == "raw":
            raise UsageError(
                Fault(
                    f"--derivatives {name}={path}", f"the name '{name}' is taken", "Choose another"
                )
            )
        if not path.is_dir():
            raise UsageError(
                Fault(f"--derivatives {name}={path}", "is not a folder", "Correct the path")
            )


def _default_work_dir(bids_dir: Path) -> Path:
    """A folder of its own for each user and dataset."""
    digest = hashlib.sha256(str(bids_dir).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"cestprep-{_user()}" / f"{bids_dir.name}-{digest}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user, as in many containers
        return str(os.getuid())
