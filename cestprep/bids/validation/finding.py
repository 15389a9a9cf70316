"""What validation says about a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cestprep.errors import Fault

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a dataset.

    Attributes
    ----------
    file : str
        Relative to the dataset.
    rule : str
        Name of what it offends.
    what, mend : str
    severity : {"error", "warning"}
    """

    file: str
    rule: str
    what: str
    mend: str
    severity: Severity = "error"

    @property
    def is_advice(self) -> bool:
        """Whether it is about a field that BIDS would like to see."""
        return "RECOMMENDED" in self.rule

    def __str__(self) -> str:
        return f"{self.severity} {self.rule} {self.file}: {self.what}. {self.mend}."

    def as_fault(self) -> Fault:
        """The same as a message that ends a program."""
        return Fault(self.file, self.what, self.mend)

    def as_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def of_faults(faults: Iterable[Fault], rule: str, image: Path, root: Path) -> list[Finding]:
    """Findings of what reading an image's companions complained about."""
    found = []
    for fault in faults:
        where = Path(fault.where) if Path(fault.where).is_relative_to(root) else image
        found.append(Finding(relative(where, root), rule, fault.what, fault.mend))
    return found


def relative(path: Path, root: Path) -> str:
    """A path as it is shown."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
