"""The one result of a run: exit code, log line and status file all come from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from cestprep import __version__
from cestprep.resources import Device


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    NO_USABLE_DATA = 65
    INTERNAL = 70
    RETRY = 75


@dataclass
class SessionResult:
    """What happened to one session."""

    label: str
    nodes_run: int = 0
    nodes_cached: int = 0
    errors: list[str] = field(default_factory=list)
    crash_files: list[Path] = field(default_factory=list)
    unusable_input: bool = False
    retryable: bool = False

    @property
    def status(self) -> str:
        """``done``, ``bad input`` or ``failed``."""
        if self.unusable_input:
            return "bad input"
        return "failed" if self.errors else "done"


@dataclass
class RunResult:
    """What happened to all asked sessions."""

    sessions: list[SessionResult]
    device: Device | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Exit code by the worst that happened."""
        bad = [s for s in self.sessions if s.status != "done"]
        if not bad:
            return ExitCode.OK
        if any(s.retryable for s in bad):
            return ExitCode.RETRY
        if all(s.unusable_input for s in self.sessions):
            return ExitCode.NO_USABLE_DATA
        return ExitCode.SOME_FAILED

    @property
    def status(self) -> str:
        """One word for the whole run."""
        return "done" if self.exit_code == ExitCode.OK else "failed"

    def as_dict(self) -> dict[str, Any]:
        """Content of ``status.json``."""
        return {
            "version": __version__,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "device": self.device and {"platform": self.device.platform, "kind": self.device.kind},
            "sessions": [
                {
                    "label": s.label,
                    "status": s.status,
                    "nodes_run": s.nodes_run,
                    "nodes_cached": s.nodes_cached,
                    "errors": s.errors,
                }
                for s in self.sessions
            ],
        }
