"""The tools as a user calls them, in this process: a new one would import jax each time."""

from __future__ import annotations

import contextlib
import io
import subprocess

from cestprep.cli.tools import main


def tool(*arguments):
    """Run ``cestprep-tools`` with arguments; its exit code and what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # of argparse
            code = stop.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
