"""Execute a graph and tell, session by session, what ran, what was cached and what failed."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from cestprep.engine.plugin import KILLED, RobustMultiProc, quieten
from cestprep.engine.result import SessionResult

log = logging.getLogger("cestprep")


def execution_config(crash_dir: Path) -> dict[str, Any]:
    """Settings of nipype that make a rerun execute nothing and crashes readable."""
    return {
        "poll_sleep_duration": 0.1,
        "crashfile_format": "txt",
        "crashdump_dir": str(crash_dir),
        "remove_unnecessary_outputs": False,
        "hash_method": "content",
        "stop_on_first_crash": False,
        "parameterize_dirs": False,
        "check_version": False,
        "create_report": False,
        "write_provenance": False,
    }


class _Watcher:
    """Counts what happens to the nodes of each session."""

    def __init__(self, sessions: Mapping[str, SessionResult]) -> None:
        self.sessions = sessions  # by name of the session's graph
        self.started: set[str] = set()

    def _session(self, node: Any) -> SessionResult | None:
        return next((s for n, s in self.sessions.items() if n in node.fullname.split(".")), None)

    def status(self, node: Any, status: str) -> None:
        """Take a status report of nipype's."""
        session = self._session(node)
        if session is None:
            return
        if status == "start":
            self.started.add(node.fullname)
            log.info("%s: %s started", session.label, _step(node))
        elif status == "end" and node.fullname in self.started:
            session.nodes_run += 1
            log.info("%s: %s finished", session.label, _step(node))
        elif status == "end":
            session.nodes_cached += 1
            log.info("%s: %s taken from the work directory", session.label, _step(node))

    def crash(self, node: Any, trace: list[str], crash_file: str) -> None:
        """Take the report of a crashed node."""
        session = self._session(node)
        if session is None:
            return
        text = "".join(trace)
        killed = KILLED in text
        session.retryable |= killed
        reason = KILLED if killed else _last_line(text)
        session.errors.append(f"{_step(node)}: {reason}")
        session.crash_files.append(Path(crash_file))
        log.error("%s: %s failed: %s (details: %s)", session.label, _step(node), reason, crash_file)


def _step(node: Any) -> str:
    """Name of a node inside its session's graph."""
    _run, _session, *names = node.fullname.split(".")
    return ".".join(names)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown error"


def _stopper(plugin: RobustMultiProc) -> Callable[[int, Any], None]:
    """Handler that ends the workers and leaves at once; finished nodes stay in the work folder.

    Raising would not do: an exception inside one of JAX's garbage-collector hooks is swallowed.
    """

    def stop(number: int, _: Any) -> None:
        plugin.kill_workers()
        name = signal.Signals(number).name
        os.write(2, f"cestprep: stopped by {name}; the same command resumes\n".encode())
        os._exit(128 + number)

    return stop


def run_graph(
    workflow: pe.Workflow,
    sessions: Mapping[str, SessionResult],
    nprocs: int,
    memory_gb: float,
    crash_dir: Path,
    engine_log_level: int = logging.CRITICAL,
) -> None:
    """Run a graph, filling in the results of its sessions.

    Parameters
    ----------
    workflow : Workflow
    sessions : mapping of graph name to SessionResult
    nprocs : int
    memory_gb : float
        What nipype lets the nodes' estimates add up to.
    crash_dir : Path
        Where crash files go.
    engine_log_level : int
        Level of nipype's own messages.
    """
    crash_dir.mkdir(parents=True, exist_ok=True)
    workflow.config["execution"] = execution_config(crash_dir)
    quieten(engine_log_level)
    watcher = _Watcher(sessions)
    plugin = RobustMultiProc(
        {
            "n_procs": nprocs,
            "memory_gb": memory_gb,
            "raise_insufficient": False,  # a step larger than the limit runs alone
            "log_level": engine_log_level,
            "status_callback": watcher.status,
            "crash_callback": watcher.crash,
        }
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopper(plugin))
    gc.freeze()  # nipype collects garbage at every look for work: with JAX loaded, most of a core
    try:
        workflow.run(plugin=plugin)
    except RuntimeError as exc:  # nipype's summary of failed nodes
        if not any(s.errors for s in sessions.values()):
            raise
        log.debug("nipype: %s", exc)
    finally:
        gc.unfreeze()
