"""``cestprep-tools simulate``: signals of a Pulseq-CEST sequence for a Pulseq-CEST pool model."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cestprep.cli.device import add_device_option, used_device
from cestprep.cli.simulated import (
    Computing,
    Problem,
    Train,
    describe,
    figure_of,
    offsets_of,
    sidecar_of,
    table_of,
    trains_of,
)
from cestprep.documents import parse_yaml, shortened
from cestprep.errors import Fault, UsageError
from cestprep.settings import SOLVER_CHOICES

if TYPE_CHECKING:
    import numpy as np

    from cestprep.physics.protocol import Protocol
    from cestprep.physics.pulseq_pools import PoolSimulation

FIGURES = (".png", ".svg", ".pdf")
#: A pool file takes some kB, a sequence some MB.
MAX_YAML_BYTES, MAX_SEQ_BYTES = 100_000, 500_000_000
MOST_POOLS = 20
#: Largest that can be meant: beyond, a simulation takes forever.
MOST_RATE, MOST_PPM, MOST_RATIO, MOST_TIME_S = 1e9, 1e5, 1e3, 100.0
MOST_B1_UT, MOST_PULSE_S = 1e4, 1e3
_INACCURATE = "reduced may be more than 1e-4 off for these pools and offsets"
#: Characters of a fault that are shown.


def add_simulate(commands: Any) -> None:
    """Add the command to the subcommands of a parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "simulate",
        help="simulate a Pulseq-CEST sequence for a Pulseq-CEST pool model",
        description="Simulate a Pulseq sequence (version 1.2 to 1.5) for a Pulseq-CEST pool model: "
        "a table of offsets and water's longitudinal magnetisation, with a JSON sidecar.",
    )
    parser.add_argument("sequence", type=Path, metavar="SEQ", help="Pulseq file (.seq)")
    parser.add_argument("pools", type=Path, metavar="YAML", help="Pulseq-CEST pool model")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="TSV",
        help="table to write, and beside it a .json; replaced if they exist",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help=f"figure to write ({', '.join(FIGURES)})"
    )
    parser.add_argument(
        "--solver",
        choices=SOLVER_CHOICES,
        default="auto",
        help="auto: reduced where it is within 1e-4 of general, else general (default: auto)",
    )
    parser.add_argument(
        "--precision",
        choices=("double", "single"),
        default="double",
        help="floating-point numbers (default: double)",
    )
    add_device_option(parser)
    _add_conventions(parser.add_argument_group("how the files are read"))
    parser.set_defaults(run=simulate)


def _add_conventions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--phase-sign",
        choices=("pulseq", "conjugate"),
        default="pulseq",
        help="which way a rising phase of a shaped pulse turns; pulseq: a higher "
        "frequency (default: pulseq)",
    )
    group.add_argument(
        "--carrier-phase",
        choices=("exact", "whole-degrees"),
        default="exact",
        help="how a carrier's phase is counted from pulse to pulse; whole-degrees: "
        "truncated, as the C++ simulator of Pulseq-CEST does (default: exact)",
    )
    for name, place in (("--dead-time", "before"), ("--ringdown", "after")):
        group.add_argument(
            name,
            type=_microseconds,
            default=0.0,
            metavar="US",
            help=f"least silence {place} each pulse in us (default: 0)",
        )
    group.add_argument(
        "--tips",
        choices=("played", "ideal"),
        default="played",
        help="ideal: the tips of rectangular spin-lock trains are perfect and take "
        "no effect on timing (default: played)",
    )
    group.add_argument(
        "--frequency",
        type=_megahertz,
        metavar="MHZ",
        help="scanner frequency (default: b0 times gamma of the YAML)",
    )
    start = group.add_mutually_exclusive_group()
    start.add_argument(
        "--reset",
        dest="reset",
        action="store_true",
        default=None,
        help="every volume starts from equilibrium times the YAML's scale "
        "(default: what the YAML says)",
    )
    start.add_argument(
        "--continuous",
        dest="reset",
        action="store_false",
        help="magnetisation is carried on from volume to volume",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _microseconds(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in us from 0 to a second")
    return value


def _megahertz(text: str) -> float:
    value = _number(text)
    if not 1 <= value < 1e4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a frequency in MHz from 1 to 10000")
    return value


def simulate(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    with _ended_by_interrupt():
        return _simulate(options)


@contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let SIGINT end the process at once.

    A callback of JAX may swallow Python's own handler, and leaving a compilation may crash.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _simulate(options: argparse.Namespace) -> int:
    _check_places(options)
    problem = read_problem(options)
    device = used_device(options.device)
    import jax

    with jax.enable_x64(options.precision == "double"):
        solver, reason, caveats = _choose(options.solver, problem)
        computing = Computing(solver, reason, caveats, options.precision, str(device))
        trains = trains_of(problem)
        _say(describe(problem, computing, trains))
        mz = _simulated(problem, computing)
    _write(options, problem, computing, trains, mz)
    return 0


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise UsageError(
            Fault("standard output", f"cannot be written ({exc.strerror})", "Send it elsewhere")
        ) from None


def _check_places(options: argparse.Namespace) -> None:
    """Whether output can be written, before anything is read."""
    _check_ending("--out", options.out, (".tsv",))
    if options.plot is not None:
        _check_ending("--plot", options.plot, FIGURES)
    if options.sequence.suffix in (".yaml", ".yml") and options.pools.suffix == ".seq":
        raise UsageError(
            Fault(
                options.sequence, "is given as the sequence", "Swap the two files: SEQ, then YAML"
            )
        )
    inputs = [_resolved(path) for path in (options.sequence, options.pools)]
    for path in _outputs(options):
        if _resolved(path) in inputs:
            raise UsageError(Fault(path, "is an input of this command", "Choose another name"))
        if path.is_dir():
            raise UsageError(Fault(path, "is a folder, expected a file", "Choose another name"))
        if not path.parent.is_dir():
            raise UsageError(Fault(path.parent, "is no folder", "Create it or choose another"))
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise UsageError(Fault(path.parent, "cannot be written", "Choose another folder"))


def _resolved(path: Path) -> Path:
    """Absolute path; a name no file system takes is refused."""
    try:
        path.resolve().exists()
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise UsageError(
            Fault(shortened(str(path)), f"is no usable path ({reason})", "Choose another")
        ) from None


def _check_ending(option: str, path: Path, endings: tuple[str, ...]) -> None:
    if path.suffix.lower() not in endings:
        raise UsageError(
            Fault(f"{option} {path}", "has another ending", f"Let it end in {' or '.join(endings)}")
        )


def _outputs(options: argparse.Namespace) -> list[Path]:
    out: Path = options.out
    return [out, out.with_suffix(".json"), *([options.plot] if options.plot else [])]


def read_problem(options: argparse.Namespace) -> Problem:
    """Both files as a protocol and a pool model.

    Raises
    ------
    UsageError
        With all faults of the first file that cannot be used.
    """
    from cestprep.physics.pulseq import parse
    from cestprep.physics.pulseq_protocol import (
        Conventions,
        frequency_of,
        idealised,
        protocol_of,
        simplified,
    )

    pools = _read_pools(options.pools, options.reset)
    if options.solver == "isar2" and pools.reset is not None:
        # every volume starts from equilibrium, where pools are in balance as isar2 wants them
        pools = replace(pools, model=replace(pools.model, pools_rebalance=True))
    frequency = options.frequency or pools.frequency_mhz
    conventions = Conventions(
        options.phase_sign,
        "exact" if options.carrier_phase == "exact" else "whole_degrees",
        options.dead_time / 1e6,
        options.ringdown / 1e6,
    )
    ideal = options.tips == "ideal"
    text = _text(options.sequence, MAX_SEQ_BYTES)
    try:
        sequence = parse(text)
        played = protocol_of(sequence, frequency, pools.reset, conventions)
        _check_played(played, frequency_of(sequence))
        protocol = simplified(idealised(played) if ideal else played)
    except (ValueError, OverflowError) as exc:
        raise UsageError(
            Fault(options.sequence, shortened(str(exc)), "Correct or export the sequence again")
        ) from None
    own = frequency_of(sequence) or frequency
    return Problem(
        options.sequence, options.pools, sequence, pools, conventions, played, protocol, ideal, own
    )


def _check_played(protocol: Protocol, own_mhz: float | None) -> None:
    """Raise ValueError for RF that no scanner can have meant."""
    from cestprep.physics.protocol import Pulse

    if own_mhz is not None and not 1 <= own_mhz < 1e4:
        raise ValueError(f"FREQ or B0 make {own_mhz:g} MHz, expected 1 to 10000")
    for number, volume in enumerate(protocol.volumes, start=1):
        for block in volume.preparation:
            if not isinstance(block, Pulse):
                continue
            numbers = block.b1_ut, block.offset_ppm, block.waveform.duration_s
            limits = MOST_B1_UT, MOST_PPM, MOST_PULSE_S
            for value, most, unit in zip(numbers, limits, ("uT", "ppm", "s"), strict=True):
                if not abs(value) <= most:
                    raise ValueError(f"volume {number} has a pulse of {value:g} {unit}")


def _text(path: Path, most: int) -> str:
    """Content of a text file, never of a folder, a pipe or a device."""
    mend = "Give the path of a readable text file"
    if path.exists() and not path.is_file():
        raise UsageError(Fault(path, "is not a file", mend))
    try:
        if path.stat().st_size > most:
            raise UsageError(
                Fault(path, f"is larger than {most / 1e6:g} MB", "Give the path of another file")
            )
        text = path.read_text("utf-8")
    except OSError as exc:
        raise UsageError(Fault(path, f"cannot be read ({exc.strerror})", mend)) from None
    except UnicodeDecodeError as exc:
        raise UsageError(
            Fault(
                path,
                f"is not UTF-8 text (byte {exc.start + 1})",
                "If it is text, save it as UTF-8; else give another file",
            )
        ) from None
    if not text.strip():
        raise UsageError(Fault(path, "is empty", "Copy or export the file again"))
    return text


def _read_pools(path: Path, reset: bool | None) -> PoolSimulation:
    from cestprep.physics.pulseq_pools import read_pools

    document = _document(path)
    if reset is not None and isinstance(document, dict):
        document["reset_init_mag"] = reset
    try:
        pools = read_pools(document)
        lines = _implausible(pools)
    except ValueError as exc:
        lines = str(exc).splitlines()
    if lines:
        mend = "Correct the file (format: https://pulseq-cest.github.io)"
        raise UsageError(*(Fault(path, shortened(line), mend) for line in lines))
    return pools


def _implausible(pools: PoolSimulation) -> list[str]:
    """What cannot be meant, a line each."""
    from cestprep.physics.pools import parameter_unit

    found = []
    if len(pools.model.pools) > MOST_POOLS:
        found.append(f"has {len(pools.model.pools)} pools besides water, at most {MOST_POOLS} work")
    if not 1 <= pools.frequency_mhz < 1e4:
        found.append(f"b0 and gamma make {pools.frequency_mhz:g} MHz, expected 1 to 10000")
    for name, value in pools.parameters.items():
        key = name.split(".")[-1]
        if key in ("t1", "t2"):
            plausible = 1 / MOST_RATE <= value <= MOST_TIME_S
        else:
            most = {"k_exchange": MOST_RATE, "offset_ppm": MOST_PPM, "b0_ppm": MOST_PPM}
            plausible = abs(value) <= most.get(key, MOST_RATIO)
        if not plausible:
            found.append(f"{name} is {value:g} {parameter_unit(name)}, which cannot be meant")
    return found


def _document(path: Path) -> Any:
    """Parsed YAML."""
    try:
        return parse_yaml(_text(path, MAX_YAML_BYTES))
    except ValueError as exc:
        raise UsageError(Fault(path, f"is not valid YAML: {exc}", "Correct the file")) from None


def _parameters(problem: Problem) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.asarray([float(v)]) for name, v in problem.pools.parameters.items()}


def _choose(asked: str, problem: Problem) -> tuple[str, str, tuple[str, ...]]:
    """Solver, why this one, and what to beware of."""
    from cestprep.physics import solvers

    protocol, model = problem.protocol, problem.pools.model
    best = solvers.choose(protocol, model, _parameters(problem))
    if asked == "auto":
        if best == "reduced":
            return best, "chosen: within 1e-4 of general here", ()
        why_not = solvers.unsuitable("reduced", protocol, model)
        return best, f"chosen: {shortened(why_not or _INACCURATE)}", ()
    why_not = solvers.unsuitable(asked, protocol, model)
    if why_not:
        mend = "Use another, or --solver auto"
        if "one by one" in why_not and not problem.ideal_tips:
            mend += "; if these are tips of a spin lock, --tips ideal makes them a train"
        raise UsageError(Fault(f"--solver {asked}", shortened(why_not), mend))
    caveat = {
        "reduced": _INACCURATE if best != "reduced" else None,
        "isar2": "isar2 is an approximation, off by several percent of mz (docs/solvers.rst)",
    }.get(asked)
    return asked, "as asked", (caveat,) if caveat else ()


def _simulated(problem: Problem, computing: Computing) -> np.ndarray:
    """Signal of every volume.

    In one go: a compilation takes longer than hundreds of volumes, and every part would need its
    own.
    """
    import jax
    import numpy as np

    from cestprep.physics import simulate as physics

    protocol = problem.protocol
    with _ticking(f"Compiling and simulating {protocol.n_volumes} volumes"):
        run = jax.jit(
            lambda p: physics.signal(protocol, problem.pools.model, p, solver=computing.solver)
        )
        mz = np.asarray(run(_parameters(problem)), np.float64)[:, 0]
    wrong = np.flatnonzero(~np.isfinite(mz))
    if wrong.size:
        found = f"gives no finite signal for volume {wrong[0] + 1} ({wrong.size} of {mz.size})"
        files = f"{problem.pool_file} with {problem.sequence_file}"
        raise UsageError(
            Fault(files, found, "Check their numbers, or use another solver or precision")
        )
    return mz


@contextmanager
def _ticking(what: str, every_s: float = 10.0) -> Iterator[None]:
    """Say that a step runs, every few seconds for how long, and at its end how long it took."""
    started, stop = time.monotonic(), threading.Event()

    def tick() -> None:
        while not stop.wait(every_s):
            print(f"{what}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

    print(f"{what} ...", file=sys.stderr, flush=True)
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    print(f"{what} took {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


def _write(
    options: argparse.Namespace,
    problem: Problem,
    computing: Computing,
    trains: Sequence[Train],
    mz: np.ndarray,
) -> None:
    """Write everything or nothing."""
    import json

    from cestprep.bids.files import replacing

    offsets = offsets_of(problem)
    sidecar = json.dumps(sidecar_of(problem, computing, trains), indent=2, allow_nan=False)
    contents = [table_of(offsets, mz).encode(), f"{sidecar}\n".encode()]
    if options.plot is not None:
        ending = options.plot.suffix.lower()[1:]
        contents.append(figure_of(problem, computing.solver, offsets, mz, ending))
    outputs = _outputs(options)
    try:
        with ExitStack() as stack:
            for path, content in reversed(list(zip(outputs, contents, strict=True))):
                stack.enter_context(replacing(path)).write_bytes(content)
    except OSError as exc:
        raise UsageError(
            Fault(
                exc.filename2 or exc.filename or options.out,
                f"cannot be written ({exc.strerror})",
                "Choose another place",
            )
        ) from None
    print(f"Written: {', '.join(map(str, outputs))}")
