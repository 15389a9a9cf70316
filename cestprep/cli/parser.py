"""Arguments of ``cestprep``."""

from __future__ import annotations

import argparse
import getpass
import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from cestprep import __version__
from cestprep.cli.device import add_device_option
from cestprep.data import recipe_names
from cestprep.documents import shortened
from cestprep.errors import Fault, UsageError
from cestprep.resources import usable_cores, usable_memory_gb
from cestprep.settings import (
    ALL_STAGES,
    ASSUMABLE,
    DEVICES,
    MODES,
    SOLVER_CHOICES,
    STEPS,
    Settings,
    read_toml,
)

EPILOG = """\
exit codes: 0 all asked sessions done; 1 some session failed; 2 command line or dataset;
65 no asked session has usable data; 70 internal error; 75 run again (worker killed);
130 and 143 stopped by SIGINT and SIGTERM"""

Value = TypeVar("Value")
MOST_SEED = 2**32 - 1
#: Beyond these single precision ends.
_LARGEST_NOISE = 1e20


def _named_path(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name.isalnum() or not path:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=PATH (name of letters and digits), such as masks=/data/masks"
        )
    return name, Path(path)


def _stage_number(text: str) -> tuple[str, float]:
    stage, separator, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if math.isnan(value) or (separator and not stage.isalnum()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither STAGE=VALUE nor VALUE, such as mt=12.5 or 12.5"
        )
    return stage or ALL_STAGES, value


def _named_text(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier() or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as steps=3000")
    return name, value


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GB above 0")
    return value


def seed(text: str) -> int:
    """Seed of random numbers, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_SEED):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MOST_SEED}")
    return int(text)


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return text


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
    parser.add_argument("bids_dir", type=_path, help="CEST-BIDS dataset")
    parser.add_argument("out_dir", type=_path, help="folder of the derivatives")
    parser.add_argument("analysis_level", choices=["participant"], help="level of the analysis")
    parser.add_argument("--version", action="version", version=f"cestprep {__version__}")
    parser.add_argument(
        "--config-file",
        type=Path,
        metavar="TOML",
        help="settings from a file, such as the cestprep.toml an earlier run left in its logs; "
        "what is typed here wins; relative paths count from the current folder",
    )
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=argparse.SUPPRESS,
        help="say more (-vv: also what the workflow engine says)",
    )
    _add_selection(parser.add_argument_group("what to process"))
    _add_estimation(parser.add_argument_group("estimation"), methods)
    _add_performance(parser.add_argument_group("performance"))
    return parser


# Defaults live in Settings: an option that was not typed must not override the settings file.
Group = argparse._ArgumentGroup


def _add_selection(group: Group) -> None:
    group.add_argument(
        "--participant-label",
        "--participant_label",
        dest="participants",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        metavar="LABEL",
        help="participants (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session-id",
        dest="sessions",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        metavar="LABEL",
        help="sessions (default: all)",
    )
    group.add_argument(
        "--derivatives",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        type=_named_path,
        metavar="NAME=PATH",
        help="derivative datasets with maps, masks (desc-brain_mask, or what the recipe names) "
        "and labelled regions; the first that has one wins, before the raw dataset",
    )
    group.add_argument(
        "--output-spaces",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        type=_name,
        metavar="NAME[:res-N]",
        help="standard spaces that maps, masks and tissues are written in too, besides the grid of "
        "the first series: MNI152NLin2009aSym, which is packaged, or a template in TemplateFlow's "
        "folder; res-1 or res-2 is the side of a voxel in mm (default: none; res-2)",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, print per session what would be used, and stop",
    )


def _add_estimation(group: Group, methods: Sequence[str]) -> None:
    group.add_argument(
        "--recipe",
        type=_name,
        default=argparse.SUPPRESS,
        metavar="NAME|FILE",
        help=f"what to estimate: {', '.join(recipe_names())}, or a YAML file "
        f"(default: {Settings.recipe})",
    )
    group.add_argument(
        "--method",
        default=argparse.SUPPRESS,
        choices=methods,
        help="estimation method, written as desc-<method>; also the one the report "
        f"and quality tables read (default: {Settings.method})",
    )
    group.add_argument(
        "--mode",
        default=argparse.SUPPRESS,
        choices=MODES,
        help="what methods with a network (psvae, nbmf, supervised) do: fit trains one for each "
        "session and leaves it beside the maps; transfer answers by the networks of --checkpoint, "
        "in seconds; transfer+refine improves each answer on the voxel's own data "
        "(default: transfer with --checkpoint, else fit)",
    )
    group.add_argument(
        "--checkpoint",
        type=_path,
        default=argparse.SUPPRESS,
        metavar="FOLDER",
        help="trained networks, one for each stage: what cestprep-tools train wrote, or the cest "
        "folder of a session that was fitted; refused for another protocol, field or recipe",
    )
    add_method_option(group, default=argparse.SUPPRESS)
    group.add_argument(
        "--solver",
        default=argparse.SUPPRESS,
        choices=SOLVER_CHOICES,
        help="simulator of the signals; auto: the fast 'reduced' in voxels where it is within 1e-4 "
        "of the exact 'general', which takes the others; isar2: the approximation of published "
        f"fits, biased, for comparison only (default: {Settings.solver})",
    )
    group.add_argument(
        "--assume-nominal",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        choices=ASSUMABLE,
        metavar="{B0,B1}",
        help="take B0 as 0 and/or B1 as nominal for want of a map (an error where one exists)",
    )
    group.add_argument(
        "--noise-sd",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        type=_stage_number,
        metavar="[STAGE=]VALUE",
        help="standard deviation of the noise of one volume, in the units of the series (not "
        "relative to M0), of a stage of the recipe or of all stages not named (default: found in "
        "the air at the corners of the images, else in repeated M0 volumes, else in the residual "
        "of the fit, which leaves no test of misfit)",
    )
    group.add_argument(
        "--motion",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="correct motion within series and register them to each other, where the recipe is "
        "for humans; --no-motion takes all images as aligned by their headers (default: --motion)",
    )
    group.add_argument(
        "--stop-after",
        choices=STEPS,
        default=argparse.SUPPRESS,
        help="preproc: write aligned series, maps of T1, T2, B0 and B1 with their SDs, brain and "
        "tissues, and stop before the estimation",
    )
    group.add_argument(
        "--propagate",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="carry the uncertainty of T1, T2, B0 and B1 (where SD maps exist) and of earlier "
        "stages into the estimates; --no-propagate counts them as exact, which reproduces the "
        "papers and gives intervals that are too narrow (default: --propagate)",
    )
    group.add_argument(
        "--sloppy",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="for trials of a setup: registrations search briefly, networks train for a tenth of "
        "their steps, programs are compiled in haste; the report and the dataset say so (default: "
        "--no-sloppy)",
    )
    group.add_argument(
        "--random-seed",
        type=seed,
        default=argparse.SUPPRESS,
        metavar="SEED",
        help="seed of methods that draw random numbers; grid and voxelwise do not "
        f"(default: {Settings.random_seed})",
    )


def add_method_option(group: argparse._ActionsContainer, default: Any) -> None:
    """Add ``--method-option``."""
    group.add_argument(
        "--method-option",
        dest="method_options",
        nargs="+",
        action="extend",
        default=default,
        type=_named_text,
        metavar="NAME=VALUE",
        help="settings of the method (docs/methods.rst), such as steps=3000; paper=true makes "
        "psvae, nbmf and grid do what the papers did",
    )


def checked_options(method: str, given: Mapping[str, str]) -> Any:
    """Options of a method from ``--method-option``.

    Raises
    ------
    UsageError
        If it has no such options.
    """
    from cestprep.inference import methods

    try:
        return methods.options_of(method, given)
    except ValueError as exc:
        mend = "Correct it; docs/methods.rst lists them"
        raise UsageError(Fault("--method-option", str(exc), mend)) from None


def _add_performance(group: Group) -> None:
    group.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        default=argparse.SUPPRESS,
        help="working files; the same folder resumes an earlier run "
        "(default: a folder in the system's temporary directory)",
    )
    group.add_argument(
        "--nprocs",
        type=_positive,
        default=argparse.SUPPRESS,
        metavar="N",
        help="steps that run at the same time (default: usable cores, "
        f"{usable_cores()} here); one fit already uses all cores",
    )
    group.add_argument(
        "--mem",
        dest="memory_gb",
        type=_gigabytes,
        default=argparse.SUPPRESS,
        metavar="GB",
        help="memory the steps may take together; steps wait for each other, nothing is enforced "
        f"(default: usable memory, {usable_memory_gb():g} here)",
    )
    add_device_option(group, default=argparse.SUPPRESS)


def settings_of(options: argparse.Namespace, methods: Sequence[str]) -> Settings:
    """Resolved settings: what was typed, else the settings file, else the defaults.

    Raises
    ------
    UsageError
        If the file is faulty, or folders are missing or overlap.
    """
    typed = {f.name: getattr(options, f.name) for f in fields(Settings) if hasattr(options, f.name)}
    for key, option in (
        ("derivatives", "--derivatives"),
        ("noise_sd", "--noise-sd"),
        ("method_options", "--method-option"),
    ):
        if key in typed:
            typed[key] = distinct(option, typed[key])
    typed = {key: tuple(v) if isinstance(v, list) else v for key, v in typed.items()}
    merged = (read_toml(options.config_file) if options.config_file else {}) | typed
    bids_dir, out_dir = merged["bids_dir"].resolve(), merged["out_dir"].resolve()
    work_dir = merged.get("work_dir") or _default_work_dir(bids_dir)
    recipe = merged.get("recipe", Settings.recipe)
    merged |= {
        "bids_dir": bids_dir,
        "out_dir": out_dir,
        "work_dir": work_dir.resolve(),
        "recipe": recipe if recipe in recipe_names() else str(Path(recipe).resolve()),
        "participants": tuple(p.removeprefix("sub-") for p in merged.get("participants", ())),
        "sessions": tuple(s.removeprefix("ses-") for s in merged.get("sessions", ())),
        "assume_nominal": tuple(dict.fromkeys(merged.get("assume_nominal", ()))),
        "derivatives": {n: p.resolve() for n, p in merged.get("derivatives", {}).items()},
    }
    if merged.get("checkpoint") is not None:
        merged |= {"checkpoint": merged["checkpoint"].resolve()}
        merged.setdefault("mode", "transfer")
    settings = Settings(**merged)
    _check_values(settings, methods)
    _check_folders(settings)
    return settings


def _check_values(settings: Settings, methods: Sequence[str]) -> None:
    """Values that only a settings file can get wrong."""
    for given, known, key in (
        ((settings.method,), methods, "method"),
        ((settings.solver,), SOLVER_CHOICES, "solver"),
        (settings.assume_nominal, ASSUMABLE, "assume_nominal"),
        ((settings.device,), DEVICES, "device"),
        ((settings.stop_after,) if settings.stop_after else (), STEPS, "stop_after"),
        ((settings.mode,), MODES, "mode"),
    ):
        wrong = [value for value in given if value not in known]
        if wrong:
            raise UsageError(
                Fault(key, f"is {', '.join(wrong)}", f"Choose from {', '.join(known)}")
            )
    if not 0 <= settings.random_seed <= MOST_SEED:
        mend = f"Choose a whole number from 0 to {MOST_SEED}"
        raise UsageError(Fault("random_seed", f"is {settings.random_seed}", mend))
    if settings.nprocs < 1 or not 0 < settings.memory_gb < 1e6 or settings.verbose < 0:
        found = f"are {settings.nprocs}, {settings.memory_gb:g} and {settings.verbose}"
        raise UsageError(
            Fault("nprocs, memory_gb and verbose", found, "The first two must be positive")
        )
    if (settings.mode == "fit") != (settings.checkpoint is None):
        what = "trains networks" if settings.checkpoint else "needs trained networks"
        mend = "leave --checkpoint out" if settings.checkpoint else "give --checkpoint FOLDER"
        raise UsageError(Fault(f"--mode {settings.mode}", what, f"Choose another mode or {mend}"))
    for stage, sd in settings.noise_sd.items():
        if not 1 / _LARGEST_NOISE <= sd <= _LARGEST_NOISE:
            raise UsageError(
                Fault(
                    f"--noise-sd {stage}={shortened(str(sd))}",
                    "is no standard deviation, which is a finite number above 0 "
                    f"({1 / _LARGEST_NOISE:g} to {_LARGEST_NOISE:g})",
                    "Give the SD of the noise of one volume in the units of the series",
                )
            )
    for dataset, path in settings.derivatives.items():
        if dataset == "raw" or not dataset.isalnum():
            raise UsageError(
                Fault(
                    f"derivatives {dataset}={path}",
                    "the name cannot be used",
                    "Choose letters and digits, and not 'raw'",
                )
            )


def _check_folders(settings: Settings) -> None:
    bids_dir, out_dir, work_dir = settings.bids_dir, settings.out_dir, settings.work_dir
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
    for name, path in settings.derivatives.items():
        if not path.is_dir():
            raise UsageError(
                Fault(f"--derivatives {name}={path}", "is not a folder", "Correct the path")
            )


def distinct(option: str, named: Sequence[tuple[str, Value]]) -> dict[str, Value]:
    """Values by name.

    Raises
    ------
    UsageError
        If a name comes twice.
    """
    values: dict[str, Value] = {}
    for name, value in named:
        if name in values:
            what = f"'{name}' was given before, as {values[name]}"
            raise UsageError(Fault(f"{option} {name}={value}", what, "Give each name once"))
        values[name] = value
    return values


def _check_writable(folder: Path) -> None:
    """Whether a folder can be made or written into; nothing is left behind."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    if not existing.is_dir():
        raise UsageError(Fault(existing, "is a file, expected a folder", "Choose another folder"))
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(Fault(existing, "cannot be written", "Choose another folder"))


def _default_work_dir(bids_dir: Path) -> Path:
    """A folder of its own for each user and dataset."""
    digest = hashlib.sha256(str(bids_dir).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"cestprep-{_user()}" / f"{bids_dir.name}-{digest}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user, as in many containers
        return str(os.getuid())
