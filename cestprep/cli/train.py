"""``cestprep-tools train``: networks of a cohort, from the preprocessed derivatives of its runs."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep.bids.spec import PREPROCESSED
from cestprep.cli.device import add_device_option
from cestprep.cli.parser import add_method_option, checked_options, distinct, seed
from cestprep.data import recipe_names
from cestprep.errors import Fault, InputError, UsageError
from cestprep.settings import ASSUMABLE, SOLVER_CHOICES, Settings

if TYPE_CHECKING:
    from cestprep.bids.plan import SessionPlan
    from cestprep.bids.quantify import How
    from cestprep.inference.estimate import Estimate


def add_train(commands: Any) -> None:
    """Add the subcommand to ``cestprep-tools``."""
    parser = commands.add_parser(
        "train",
        help="train networks on a cohort's preprocessed derivatives",
        description="Train one network for each stage on the voxels of many sessions, from the "
        "series, maps and masks that cestprep left in OUT; the raw dataset is not needed. "
        "cestprep BIDS OUT participant --checkpoint OUT/networks/pretrained then answers for new "
        "sessions in seconds.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of cestprep")
    parser.add_argument(
        "--leave-one-out",
        action="store_true",
        help="for each participant a network trained on all others, in OUT/networks/leave-one-out; "
        "--checkpoint of that folder takes for each participant the one that has not seen it",
    )
    parser.add_argument(
        "--recipe",
        default=Settings.recipe,
        metavar="NAME|FILE",
        help=f"what to estimate: {', '.join(recipe_names())}, or a YAML file "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default=Settings.method,
        metavar="NAME",
        help="method with a network (default: %(default)s)",
    )
    add_method_option(parser, default=[])
    parser.add_argument(
        "--participant-label",
        nargs="+",
        action="extend",
        default=[],
        metavar="LABEL",
        help="participants to learn from (default: all)",
    )
    parser.add_argument(
        "--assume-nominal",
        nargs="+",
        action="extend",
        default=[],
        choices=ASSUMABLE,
        metavar="{B0,B1}",
        help="as for the runs that made OUT",
    )
    parser.add_argument("--solver", default=Settings.solver, choices=SOLVER_CHOICES,
                        help="simulator of the signals (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--propagate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="tell the network the uncertainty of maps and earlier stages",
    )
    parser.add_argument("--random-seed", type=seed, default=0, metavar="SEED",
                        help="seed (default: %(default)s)")  # fmt: skip
    add_device_option(parser)
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from cestprep.bids.files import replacing_folder
    from cestprep.bids.quantify import How

    given = distinct("--method-option", options.method_options)
    folder = options.out / "networks"
    how = How(options.method, given, "fit", options.random_seed, folder / ".training")
    _check(how)
    _check_folder(options.out, folder)
    sessions = _sessions(options)
    subjects = list(dict.fromkeys(session.subject for session in sessions))
    target = folder / ("leave-one-out" if options.leave_one_out else "pretrained")
    if options.leave_one_out and len(subjects) < 2:
        what = f"holds {len(subjects)} participant, leaving one out needs two"
        raise UsageError(Fault(options.out, what, "Process more participants first"))
    with replacing_folder(target) as new:
        _keep_others(target, how.method, new)
        if options.leave_one_out:
            _leave_one_out(sessions, subjects, how, new)
        else:
            _train_stages(sessions, how, new)
    shutil.rmtree(how.training_dir, ignore_errors=True)
    written = sorted(target.rglob("*_network.json"))
    print(f"Written: {', '.join(map(str, written))}, each with its weights beside it", flush=True)
    print(f"Use them by --checkpoint {target}", flush=True)
    return 0


def _leave_one_out(
    sessions: Sequence[SessionPlan], subjects: Sequence[str], how: How, folder: Path
) -> None:
    for number, left_out in enumerate(subjects, start=1):
        print(f"Network {number} of {len(subjects)}, without sub-{left_out}", file=sys.stderr)
        others = [session for session in sessions if session.subject != left_out]
        _train_stages(others, how, folder / f"{number}")


def _check_folder(out: Path, networks: Path) -> None:
    """Refuse what is no output folder, and a file in the place of the networks."""
    if not (out / "dataset_description.json").is_file():
        raise UsageError(Fault(out, "is no output folder of cestprep", "Run cestprep first"))
    if networks.exists() and not networks.is_dir():
        raise UsageError(Fault(networks, "is a file, networks need this folder", "Move it away"))


def _keep_others(target: Path, method: str, new: Path) -> None:
    """Copy the networks of other methods."""
    for file in target.rglob("*_network.*"):
        if f"_desc-{method}_" not in file.name:
            copy = new / file.relative_to(target)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _check(how: How) -> None:
    """Refuse methods without a network, and options they do not have."""
    from cestprep.inference import methods

    trained = methods.trained_names()
    if how.method not in trained:
        what, mend = "is no method with a network", f"Choose from {', '.join(trained)}"
        raise UsageError(Fault(f"--method {how.method}", what, mend))
    checked_options(how.method, how.options)


def _sessions(options: argparse.Namespace) -> list[SessionPlan]:
    """Plans of the sessions in the output folder.

    Raises
    ------
    UsageError
        If one of them cannot be used.
    """
    from cestprep.bids.plan import plan_session
    from cestprep.bids.session import choose_sessions, list_sessions, make_layout, select_session
    from cestprep.data import load_recipe
    from cestprep.inference import methods
    from cestprep.inference.recipe import Recipe

    recipe = Recipe.from_mapping(load_recipe(options.recipe))
    root = options.out.resolve()
    labels = [label.removeprefix("sub-") for label in options.participant_label]
    chosen = choose_sessions(list_sessions(root), labels, [])
    layout = make_layout(root, list(dict.fromkeys(subject for subject, _ in chosen)))
    settings = methods.options_of(options.method, dict(options.method_options))
    plans: list[SessionPlan] = []
    faults: list[Fault] = []
    for subject, session in chosen:
        try:
            files = select_session(
                layout, {"preprocessed": layout}, subject, session, recipe.mask, PREPROCESSED
            )
            plans.append(
                plan_session(
                    files,
                    recipe,
                    options.assume_nominal,
                    options.solver,
                    propagate=options.propagate,
                    adapt=lambda problem: methods.adapted(options.method, problem, settings),
                )
            )
        except InputError as exc:
            faults += exc.faults
    if faults:
        raise UsageError(*faults)
    return plans


def _train_stages(sessions: Sequence[SessionPlan], how: How, folder: Path) -> None:
    """Train stage after stage; each gets the answers of the networks before it."""
    from cestprep.bids.cohort import answered, common_problem, pooled
    from cestprep.bids.networks import write_network
    from cestprep.bids.quantify import made, train, training_folder
    from cestprep.inference import methods
    from cestprep.inference.checkpoint import describe
    from cestprep.progress import ProgressLine

    method = methods.load(how.method)
    subjects = tuple(dict.fromkeys(session.subject for session in sessions))
    earlier: dict[str, dict[str, Estimate]] = {}
    needed = {n for plan in sessions[0].stages for n in plan.inputs_from}
    for first in sessions[0].stages:
        stage = first.stage.name
        problem = common_problem(sessions, stage)
        described = describe(problem, sessions[0].propagate)
        seen, chosen = pooled(sessions, stage, method, earlier)
        print(
            f"{stage}: {seen.data.shape[1]} voxels of {len(chosen)} sessions",
            file=sys.stderr,
            flush=True,
        )
        work = training_folder(how, stage, described, seen)
        trained = train(problem, seen, how, work, ProgressLine(stage))
        checkpoint = made(how, described, trained, subjects)
        about = {"Stage": stage, "Recipe": sessions[0].recipe.name}
        path = folder / f"acq-{stage}_model-{first.stage.model}_desc-{how.method}_network"
        write_network(path.with_suffix(".safetensors"), checkpoint, about)
        for session in sessions if stage in needed else ():
            places = chosen.get(session.label)
            if places is None:
                continue
            plan, known = session.stage(stage), earlier.setdefault(session.label, {})
            known[stage] = answered(session, plan, places, method, trained, known)
