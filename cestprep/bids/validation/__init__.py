"""Validation of CEST-BIDS datasets: the official validator with our schema, and more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cestprep.bids.validation import crosschecks, names, official
from cestprep.bids.validation.finding import Finding

__all__ = ["Finding", "Report", "validate"]


@dataclass(frozen=True)
class Report:
    """Findings of a dataset, and whether the official validator was among the judges."""

    findings: tuple[Finding, ...]
    official: bool

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make a dataset invalid."""
        return tuple(f for f in self.findings if f.severity == "error")


def validate(root: Path, *, stock: bool = False) -> Report:
    """Check a dataset; offline.

    Parameters
    ----------
    root : Path
    stock : bool
        By the released standard alone, ``.bidsignore`` included.

    Raises
    ------
    UsageError
        If the official validator does not run, or is asked for and absent.
    """
    if stock:
        return Report(tuple(official.findings(root, stock=True)), True)
    present = official.program() is not None
    found = official.findings(root) if present else names.findings(root)
    told = {(f.file, f.rule) for f in found}
    found += [f for f in crosschecks.findings(root) if (f.file, f.rule) not in told]
    return Report(tuple(found), present)
