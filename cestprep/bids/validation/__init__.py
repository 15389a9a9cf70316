"""Validation of CEST-BIDS datasets: the official validator with our schema, and more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cestprep.bids.validation import crosschecks, names, official
from cestprep.bids.validation.finding import Finding
from cestprep.errors import UsageError

__all__ = ["Finding", "Report", "validate"]


_MEND = "Mend what else is said and try again, or install it again"


@dataclass(frozen=True)
class Report:
    """Findings of a dataset, and whether the official validator was among the judges."""

    findings: tuple[Finding, ...]
    official: bool

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that make a dataset invalid."""
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is probably not meant."""
        others = (f for f in self.findings if f.severity != "error")
        return tuple(f for f in others if not f.is_advice)


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
        If the official validator is asked for alone and does not run.
    """
    if stock:
        return Report(tuple(official.findings(root, stock=True)), True)
    present = official.program() is not None
    try:
        found = official.findings(root) if present else names.findings(root)
    except UsageError as exc:  # names and files it cannot digest, which are then among ours
        present = False
        found = [
            Finding("dataset", "OFFICIAL_VALIDATOR_FAILED", str(f.what), _MEND) for f in exc.faults
        ]
        found += names.findings(root)
    told = {(f.file, f.rule) for f in found}
    found += [f for f in crosschecks.findings(root) if (f.file, f.rule) not in told]
    return Report(tuple(found), present)
