"""nipype's process pool, mended: forkserver, and a killed worker is an error instead of a hang."""

from __future__ import annotations

import logging
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from traceback import format_exception
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

from cestprep.resources import PLATFORMS, set_platforms

#: Imported once by the server that forks the workers; none of these starts a JAX backend.
PRELOAD = ["nipype.pipeline.plugins.multiproc", "nibabel", "jax", "cestprep.interfaces"]
KILLED = "A worker process died abruptly (killed by the system, most often for memory)."


def start_worker(cwd: str, log_level: int, platforms: str) -> None:
    """Prepare a worker process, which inherits neither folder nor log levels.

    Its environment is the one in which the fork server started, and that may be older.
    """
    process_initializer(cwd)
    quieten(log_level)
    if platforms:
        set_platforms(platforms)


def quieten(log_level: int) -> None:
    """Set the level of nipype's own loggers."""
    for name in ("nipype.workflow", "nipype.utils", "nipype.interface"):
        logging.getLogger(name).setLevel(log_level)


class RobustMultiProc(MultiProcPlugin):
    """MultiProc on ``forkserver`` (fork deadlocks once the parent has used JAX).

    Stock nipype waits for ever for a killed worker, because the exception is swallowed in a
    callback; here the future is looked at when results are collected, and a broken pool is made
    anew for the next node.
    """

    def __init__(self, plugin_args: dict[str, Any] | None = None) -> None:
        multiprocessing.set_forkserver_preload(PRELOAD)
        super().__init__(plugin_args={**(plugin_args or {}), "mp_context": "forkserver"})
        self.pool: ProcessPoolExecutor = self._new_pool()  # nipype's own has no worker yet

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=start_worker,
            initargs=(
                self._cwd,
                self.plugin_args.get("log_level", logging.INFO),
                os.environ.get(PLATFORMS, ""),
            ),
            mp_context=multiprocessing.get_context("forkserver"),
        )

    def kill_workers(self) -> None:
        """End all worker processes at once."""
        for process in list((self.pool._processes or {}).values()):
            process.kill()

    def _async_callback(self, args: Future[Any]) -> None:
        """Do nothing in the pool's thread; see `_get_result`."""

    def _get_result(self, taskid: int) -> Any:
        future = self._task_obj[taskid]
        if not future.done():
            return None
        error = future.exception()
        if error is None:
            return future.result()
        advice = "Run again with fewer --nprocs or more memory; finished nodes are reused."
        trace = [f"{KILLED} {advice}\n", *format_exception(error)]
        return {"result": None, "traceback": trace, "taskid": taskid}

    def _submit_job(self, node: Any, updatehash: bool = False) -> Any:
        try:
            return super()._submit_job(node, updatehash)
        except BrokenProcessPool:
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = self._new_pool()
            return super()._submit_job(node, updatehash)

    def _report_crash(self, node: Any, result: Any = None) -> Any:
        crash_file = super()._report_crash(node, result=result)
        listener = self.plugin_args.get("crash_callback")
        if listener is not None:
            listener(node, (result or {}).get("traceback") or [], crash_file)
        return crash_file
