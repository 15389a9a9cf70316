"""The ``cestprep`` program."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cestprep.cli.device import use_device, used_device
from cestprep.cli.failures import internal_error, say_faults
from cestprep.cli.parser import checked_options, make_parser, settings_of
from cestprep.errors import Fault, InputError, UsageError
from cestprep.resources import compile_quickly
from cestprep.settings import ALL_STAGES, Settings

if TYPE_CHECKING:
    from cestprep.bids.plan import SessionPlan
    from cestprep.engine.result import SessionResult

log = logging.getLogger("cestprep")


@dataclass(frozen=True)
class Planned:
    """Sessions that can run, and those whose input cannot be used."""

    plans: list[SessionPlan]
    unusable: dict[str, InputError]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the participant level; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    methods = _method_names()
    options = make_parser(methods).parse_args(arguments)
    try:
        settings = _with_short_training(settings_of(options, methods))
        _start_log(settings.verbose)
        if settings.sloppy:
            compile_quickly()
        use_device(settings.device)
        planned = plan_run(settings)
        if options.dry_run:
            return _dry_run(settings, planned)
        return run(settings, planned, shlex.join(["cestprep", *arguments]))
    except UsageError as exc:
        return say_faults("cestprep", exc)
    except Exception as exc:
        return internal_error("cestprep", exc)


def _method_names() -> tuple[str, ...]:
    """Method modules by their file names: importing them would start JAX."""
    folder = Path(__file__).resolve().parents[1] / "inference" / "methods"
    return tuple(sorted(f.stem for f in folder.glob("*.py") if not f.stem.startswith("_")))


def _start_log(verbose: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


def plan_run(settings: Settings) -> Planned:
    """Select and check all asked sessions before anything runs.

    Raises
    ------
    UsageError
        For labels, recipes, stages or datasets that do not exist.
    """
    from cestprep.bids.plan import plan_session
    from cestprep.bids.session import (
        choose_sessions,
        list_sessions,
        make_layout,
        select_session,
        session_label,
    )
    from cestprep.bids.templates import find_spaces
    from cestprep.data import load_recipe
    from cestprep.inference import methods
    from cestprep.inference.recipe import Recipe

    recipe = Recipe.from_mapping(load_recipe(settings.recipe))
    _check_stages(settings, [stage.name for stage in recipe.stages])
    options, spaces = _method_options(settings), find_spaces(settings.output_spaces)
    available = list_sessions(settings.bids_dir)
    chosen = choose_sessions(available, settings.participants, settings.sessions)
    subjects = list(dict.fromkeys(subject for subject, _ in chosen))
    layout = make_layout(settings.bids_dir, subjects)
    derivatives = {name: make_layout(path, subjects) for name, path in settings.derivatives.items()}
    planned = Planned([], {})
    for subject, session in chosen:
        try:
            files = select_session(layout, derivatives, subject, session, recipe.mask)
            plan = plan_session(
                files,
                recipe,
                settings.assume_nominal,
                settings.solver,
                noise_sd=settings.noise_sd,
                propagate=settings.propagate,
                motion=settings.motion,
                out_dir=settings.out_dir,
                spaces=spaces,
                sloppy=settings.sloppy,
                adapt=lambda problem: methods.adapted(settings.method, problem, options),
            )
            planned.plans.append(_with_networks(plan, settings))
        except UsageError:
            raise
        except InputError as exc:
            planned.unusable[session_label(subject, session)] = exc
    return planned


def _method_options(settings: Settings) -> Any:
    """Options of the method.

    Raises
    ------
    UsageError
        If it has no such options, or they have no effect on what a checkpoint answers.
    """
    if settings.checkpoint is not None:
        _check_reuse(settings)
    return checked_options(settings.method, settings.method_options)


def _with_short_training(settings: Settings) -> Settings:
    """Settings whose training is cut short where they are sloppy and train."""
    if not settings.sloppy or settings.checkpoint is not None:
        return settings
    from cestprep.inference import methods

    short = methods.shortened(settings.method, settings.method_options)
    return replace(settings, method_options=short)


def _check_reuse(settings: Settings) -> None:
    """Refuse what does not go together with trained networks."""
    from cestprep.inference import methods

    option = f"--checkpoint {settings.checkpoint}"
    trained, idle = methods.trained_names(), sorted(settings.method_options.keys() - {"paper"})
    if not (settings.checkpoint and settings.checkpoint.is_dir()):
        raise UsageError(Fault(option, "is not a folder", "Give the folder of trained networks"))
    if settings.method not in trained:
        what = f"method {settings.method} has no network"
        mend = f"Choose --method {' or '.join(trained)}, or leave --checkpoint out"
        raise UsageError(Fault(option, what, mend))
    if idle:
        what = f"{', '.join(idle)}: no effect, since the network is trained already"
        mend = "Leave it out; --mode transfer or transfer+refine says whether answers are refined"
        raise UsageError(Fault("--method-option", what, mend))
    refined = "refine" in methods.paper_options(settings.method)
    if settings.mode == "transfer+refine" and not refined and settings.method_options:
        what = f"{settings.method} refines nothing in paper mode"
        raise UsageError(Fault("--mode transfer+refine", what, "Choose --mode transfer"))


def _with_networks(plan: SessionPlan, settings: Settings) -> SessionPlan:
    """The plan with the networks of ``--checkpoint``.

    Raises
    ------
    UsageError
        If there are none for it, or they cannot be read.
    InputError
        If they were trained for something else.
    """
    if settings.checkpoint is None:
        return plan
    from cestprep.bids.networks import fault_of, find_networks, read_network
    from cestprep.inference.checkpoint import describe

    names = [stage.stage.name for stage in plan.stages]
    paths = find_networks(settings.checkpoint, names, plan.subject, settings.method)
    published = settings.method_options.get("paper") == "true"
    stages, faults = [], []
    for stage in plan.stages:
        path = paths[stage.stage.name]
        network, described = read_network(path), describe(stage.problem, plan.propagate)
        faults.append(fault_of(path, network, settings.method, published, described))
        stages.append(replace(stage, network=path, network_saw=network.subjects))
    if any(faults):
        raise InputError(*(fault for fault in faults if fault is not None))
    return replace(plan, stages=tuple(stages))


def _check_stages(settings: Settings, stages: Sequence[str]) -> None:
    """Refuse options that name stages the recipe does not have."""
    for name, value in settings.noise_sd.items():
        if name not in (*stages, ALL_STAGES):
            raise UsageError(
                Fault(
                    f"--noise-sd {name}={value}",
                    f"recipe {Path(settings.recipe).stem} has no stage '{name}'",
                    f"Choose from {', '.join(stages)}, or give the value alone for all",
                )
            )


def _say_unusable(planned: Planned) -> None:
    for label, error in planned.unusable.items():
        for fault in error.faults:
            log.error("%s cannot be processed: %s", label, fault)


def _how(settings: Settings) -> str:
    """How will be estimated, in words."""
    given = ", ".join(f"{k}={v}" for k, v in settings.method_options.items())
    named = f"method {settings.method}, mode {settings.mode}" + (f", {given}" if given else "")
    return f"{named}, seed {settings.random_seed}"


def _dry_run(settings: Settings, planned: Planned) -> int:
    print(_how(settings))
    for plan in planned.plans:
        print(plan.describe())
    _say_unusable(planned)
    if not planned.unusable:
        return 0
    return 1 if planned.plans else 65


def run(settings: Settings, planned: Planned, command: str) -> int:
    """Execute the planned sessions; returns the exit code."""
    device = used_device(settings.device)
    try:
        _quiet_environment(settings.work_dir)
        settings.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        place = exc.filename or settings.out_dir
        raise UsageError(
            Fault(place, f"cannot be made ({exc.strerror})", "Choose another")
        ) from None
    from cestprep.bids.derivatives import write_dataset
    from cestprep.bids.files import write_json, write_text
    from cestprep.engine.result import RunResult, SessionResult
    from cestprep.report.session import report_path, write_failure
    from cestprep.workflows.session import forget_report

    datasets = {"raw": settings.bids_dir, **settings.derivatives}
    write_dataset(settings.out_dir, datasets, sloppy=settings.sloppy)
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
    log_dir = settings.out_dir / "logs" / run_id
    write_text(log_dir / "cestprep.toml", settings.to_toml())
    log.info(
        "%d steps at a time, %g GB, on %s; settings kept in %s",
        settings.nprocs,
        settings.memory_gb,
        device,
        log_dir / "cestprep.toml",
    )
    _say_unusable(planned)
    results = {
        label: SessionResult(label, errors=[str(f) for f in error.faults], unusable_input=True)
        for label, error in planned.unusable.items()
    }
    results |= {plan.label: SessionResult(plan.label) for plan in planned.plans}
    if planned.plans:
        _execute(settings, planned.plans, results, command, log_dir, datasets)
    for session in results.values():
        if session.errors and not (session.unusable_input and has_report(settings, session.label)):
            write_failure(session.label, session.errors, settings.out_dir, command)
            forget_report(settings.work_dir, session.label)
    result = RunResult([results[label] for label in sorted(results)], device)
    write_json(log_dir / "status.json", result.as_dict())
    for session in result.sessions:
        log.info(
            "%s: %s; %d nodes run, %d cached",
            session.label,
            session.status,
            session.nodes_run,
            session.nodes_cached,
        )
    page = report_path(next(iter(results)) if len(results) == 1 else "*", settings.out_dir)
    log.info("%s (exit code %d)", result.status, result.exit_code)
    log.info("reports: %s; status: %s", page, log_dir / "status.json")
    return int(result.exit_code)


def has_report(settings: Settings, label: str) -> bool:
    """Whether an earlier run left a page: it describes maps that bad input has not touched."""
    from cestprep.report.session import report_path

    return report_path(label, settings.out_dir).exists()


def _execute(
    settings: Settings,
    plans: list[SessionPlan],
    results: dict[str, SessionResult],
    command: str,
    log_dir: Path,
    datasets: dict[str, Path],
) -> None:
    from cestprep.engine.run import run_graph
    from cestprep.workflows.session import init_run_wf, session_node_name

    log.info("%s", _how(settings))
    for plan in plans:
        log.info("%s", plan.describe())
        if any(plan.subject in stage.network_saw for stage in plan.stages):
            log.warning("%s: the network was trained on this participant too", plan.label)
    workflow = init_run_wf(plans, settings, datasets, command)
    by_node = {session_node_name(plan.label): results[plan.label] for plan in plans}
    engine_log_level = logging.INFO if settings.verbose > 1 else logging.CRITICAL
    run_graph(workflow, by_node, settings.nprocs, settings.memory_gb, log_dir, engine_log_level)


def _quiet_environment(work_dir: Path) -> None:
    """Keep libraries off the network and out of HOME; set before they are imported."""
    work_dir.mkdir(parents=True, exist_ok=True)
    os.environ["NO_ET"] = os.environ["NIPYPE_NO_ET"] = "1"
    for variable, folder in (("NIPYPE_CONFIG_DIR", "nipype"), ("MPLCONFIGDIR", "matplotlib")):
        os.environ.setdefault(variable, str(work_dir / f".{folder}"))


if __name__ == "__main__":
    sys.exit(main())
