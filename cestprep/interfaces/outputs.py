"""nipype interfaces that write derivatives and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class SessionInputSpec(BaseInterfaceInputSpec):
    """Inputs that all writers share."""

    plan = traits.Any(mandatory=True, desc="SessionPlan")
    in_files = InputMultiObject(File(exists=True), mandatory=True, desc="images the plan names")
    out_dir = traits.Str(mandatory=True, desc="output dataset")
    datasets = traits.Dict(mandatory=True, desc="roots of the input datasets by name")
    method = traits.Str(mandatory=True, desc="estimation method")


class SavedOutputSpec(TraitedSpec):
    """Outputs of the writers."""

    out_files = OutputMultiObject(File(exists=True), desc="files written")


def _sink(inputs: Any) -> Any:
    """Sink that a writer's inputs describe."""
    from cestprep.bids.derivatives import Sink

    datasets = {name: Path(root) for name, root in inputs.datasets.items()}
    return Sink(Path(inputs.out_dir), datasets, inputs.method)


class SaveReference(SimpleInterface):
    """Write the session's reference image."""

    input_spec = SessionInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import write_reference

        written = write_reference(_sink(self.inputs), self.inputs.plan)
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveStageInputSpec(SessionInputSpec):
    """Inputs of `SaveStage`."""

    stage = traits.Str(mandatory=True, desc="name of the stage")
    estimate = File(exists=True, mandatory=True, desc="estimate (.npz)")


class SaveStage(SimpleInterface):
    """Write the maps of one stage with their sidecars."""

    input_spec = SaveStageInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import write_stage
        from cestprep.bids.observe import load_estimate
        from cestprep.inference import methods

        sink, session = _sink(self.inputs), self.inputs.plan
        estimate = load_estimate(Path(self.inputs.estimate))
        plan = session.stage(self.inputs.stage)
        written = write_stage(sink, session, plan, estimate, methods.load(sink.method))
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveReportInputSpec(SessionInputSpec):
    """Inputs of `SaveReport`."""

    estimates = InputMultiObject(File(exists=True), mandatory=True, desc="estimates, stage by stage")
    normalizations = InputMultiObject(
        File(exists=True), mandatory=True, desc="medians under both normalisations, stage by stage"
    )
    command = traits.Str(nohash=True, desc="command line, for the record")


class SaveReport(SimpleInterface):
    """Write the HTML report and the quality table of a session."""

    input_spec = SaveReportInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.files import read_json
        from cestprep.bids.observe import load_estimate
        from cestprep.report.session import write_report, write_tables

        sink, session = _sink(self.inputs), self.inputs.plan
        estimates = {
            plan.stage.name: load_estimate(Path(f))
            for plan, f in zip(session.stages, self.inputs.estimates, strict=True)
        }
        normalizations = [read_json(Path(f)) for f in self.inputs.normalizations]
        written = [
            write_report(sink, session, estimates, normalizations, self.inputs.command),
            *write_tables(sink, session, estimates),
        ]
        self._results["out_files"] = [str(p) for p in written]
        return runtime
