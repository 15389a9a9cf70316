"""The ``cestprep-tools`` program."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cestprep import __version__
from cestprep.cli.convert import add_convert
from cestprep.cli.device import add_device_option, use_device
from cestprep.cli.failures import internal_error, say_faults
from cestprep.cli.simulate import add_simulate
from cestprep.cli.train import add_train
from cestprep.cli.validate import add_validate
from cestprep.errors import Fault, InputError, UsageError

#: Of what the system refuses to read or to write.
_MEND = "Check the path, its permissions and the room on the disk, or choose another folder"


def make_parser() -> argparse.ArgumentParser:
    """Parser of the tools."""
    parser = argparse.ArgumentParser(prog="cestprep-tools", description="Tools around cestprep.")
    parser.add_argument("--version", action="version", version=f"cestprep {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help="what to do"
    )
    demo = commands.add_parser(
        "demo",
        help="write a small synthetic CEST-BIDS session with its truth",
        description="Write a synthetic CEST-BIDS session: MT and amide fingerprinting with maps of "
        "T1, T2, B0 and B1, a brain mask and tissue labels (derivatives/masks), or the scans such "
        "maps come from; and the true parameters (derivatives/truth).",
    )
    demo.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist yet")
    demo.add_argument("--seed", type=int, default=0, help="seed of tissue variation and noise")
    demo.add_argument("--size", choices=("micro", "tiny", "small", "full"), default="micro",
                      help="micro: a few voxels, maps supplied (default); else a moving digital "
                      "head with raw scans of T1, T2, B0 and B1, of 5, 2.2 or 1.8 mm")  # fmt: skip
    demo.add_argument("--lesion", action="store_true",
                      help="a glioma-like lesion in the digital head")  # fmt: skip
    demo.add_argument("--animal", action="store_true",
                      help="7 T, continuous-wave saturation (recipe mouse-7t) instead of 3 T, "
                      "pulsed spin lock (recipe brain-3t)")  # fmt: skip
    add_device_option(demo)
    demo.set_defaults(run=_demo)
    add_simulate(commands)
    add_convert(commands)
    add_train(commands)
    add_validate(commands)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from cestprep.bids.demo import DemoOptions, write_demo
    from cestprep.bids.files import replacing_folder
    from cestprep.data import load_recipe
    from cestprep.inference.recipe import Recipe

    if options.out.exists():
        print(f"cestprep-tools: error: {options.out}: exists already. Choose a new folder.",
              file=sys.stderr)  # fmt: skip
        return 2
    if options.size != "micro":
        return _digital_head(options)
    if options.lesion:
        what = "is only in the digital head"
        raise UsageError(Fault("--lesion", what, "Give --size tiny, small or full"))
    if options.animal:
        recipe = Recipe.from_mapping(load_recipe("mouse-7t"))
        demo = DemoOptions(recipe, 298.03, pulsed=False, shape=(20, 20, 1), seed=options.seed)
    else:
        demo = DemoOptions(Recipe.from_mapping(load_recipe("brain-3t")), seed=options.seed)
    print(f"Simulating a session with recipe {demo.recipe.name} ...", flush=True)
    with replacing_folder(options.out) as folder:
        write_demo(folder, demo)
    masks = options.out / "derivatives/masks"
    print(
        f"Written to {options.out}. Now, for example:\n  cestprep {options.out} OUT participant "
        f"--recipe {demo.recipe.name} --derivatives masks={masks} -w WORK"
    )
    return 0


def _digital_head(options: argparse.Namespace) -> int:
    from cestprep.bids.digital import Options, write_session
    from cestprep.bids.files import replacing_folder
    from cestprep.data import load_recipe
    from cestprep.inference.recipe import Recipe
    from cestprep.progress import ProgressLine

    if options.animal:
        what = "has no digital head"
        raise UsageError(Fault("--animal", what, "Leave --size out"))
    recipe = Recipe.from_mapping(load_recipe("brain-3t"))
    made = Options(recipe, options.size, options.seed, options.lesion)
    lines: dict[str, ProgressLine] = {}

    def progress(name: str, done: int, total: int) -> None:
        lines.setdefault(name, ProgressLine(name, "volumes"))(done, total)

    print(f"Drawing a digital head, size {options.size} ...", flush=True)
    with replacing_folder(options.out) as folder:
        write_session(folder, made, progress)
    print(f"Written to {options.out}; the truth is in {options.out / 'derivatives/truth'}.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a tool; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if "device" in options:  # of the tools that compute
            use_device(options.device)
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except InputError as exc:
        return say_faults("cestprep-tools", exc)
    except KeyboardInterrupt:
        print("cestprep-tools: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as exc:
        if exc.errno is None:
            return internal_error("cestprep-tools", exc)
        where = "a file" if exc.filename is None else str(exc.filename)
        fault = Fault(where, f"cannot be read or written ({exc.strerror})", _MEND)
        return say_faults("cestprep-tools", InputError(fault))
    except Exception as exc:
        return internal_error("cestprep-tools", exc)
    return code


if __name__ == "__main__":
    sys.exit(main())
