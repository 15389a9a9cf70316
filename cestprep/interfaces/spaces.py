"""nipype interface that writes maps in standard spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import File, InputMultiObject, SimpleInterface, traits

from cestprep.interfaces.outputs import SavedOutputSpec, SessionInputSpec, sink_of


class SaveInSpaceInputSpec(SessionInputSpec):
    """Inputs of `SaveInSpace`."""

    space = traits.Any(mandatory=True, desc="cestprep.bids.templates.Space")
    native = InputMultiObject(File(exists=True), mandatory=True, desc="derivatives of the session")


class SaveInSpace(SimpleInterface):
    """Find a template in the head, unless that was done before, and write all maps on its grid."""

    input_spec = SaveInSpaceInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.spaces import write_in_space

        asked = self.inputs
        folder = Path(runtime.cwd)
        written = write_in_space(sink_of(asked), asked.plan, asked.space, asked.native, folder)
        self._results["out_files"] = [str(p) for p in written]
        return runtime
