"""What is said about bad input: what, which file, why, how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """One thing wrong with the input.

    Attributes
    ----------
    where : str or Path
        File, folder or option.
    what : str
        What was found and what was expected.
    mend : str
        How to put it right.
    """

    where: str | Path
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.mend}."


class Absent(Fault):
    """Something that is not there, rather than wrong."""


class InputError(Exception):
    """Input that cannot be used; carries one or more faults."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return type(self), self.faults


class UsageError(InputError):
    """Command line or dataset-level input that stops the whole run (exit code 2)."""
