"""What a program says when it cannot go on."""

from __future__ import annotations

import sys
import tempfile
import traceback

from cestprep.errors import InputError


def say_faults(program: str, error: InputError) -> int:
    """Print every fault; returns the exit code of bad input."""
    for fault in error.faults:
        print(f"{program}: error: {fault}", file=sys.stderr)
    return 2


def internal_error(program: str, error: Exception) -> int:
    """Keep the traceback in a file and say where; returns the exit code."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="cestprep-crash-", suffix=".txt", delete=False
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    print(
        f"{program}: internal error: {type(error).__name__}: {error}\n"
        f"This is a fault of cestprep; please report it with {file.name}",
        file=sys.stderr,
    )
    return 70
