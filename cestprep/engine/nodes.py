"""A nipype node whose cache counts only while its output files exist."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from nipype.pipeline.engine.nodes import Node
from nipype.utils.filemanip import loadpkl


class SafeNode(Node):
    """Node that runs again when a file it reported is gone (purged scratch, deleted output)."""

    def is_cached(self, rm_outdated: bool = False) -> tuple[bool, bool]:
        """Whether results are there, and whether they are up to date."""
        cached, updated = super().is_cached(rm_outdated)
        if cached and updated and not self._outputs_exist():
            shutil.rmtree(self.output_dir(), ignore_errors=True)
            return False, False
        return cached, updated

    def _outputs_exist(self) -> bool:
        folder = self.output_dir()
        try:
            result = loadpkl(os.path.join(folder, f"result_{self.name}.pklz"))
        except Exception:  # an unreadable result is no result, whatever the reason
            return False
        outputs = result.outputs
        values = outputs if isinstance(outputs, dict) else outputs.get()
        return all(os.path.exists(path) for path in _files(list(values.values()), folder))


def _files(value: Any, folder: str) -> Iterator[str]:
    """Paths among output values; nipype stores those below the node's folder as bare names."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _files(item, folder)
    elif isinstance(value, str) and os.path.isabs(value):
        yield value
    elif isinstance(value, str) and os.sep not in value and "." in value:
        yield os.path.join(folder, value)
