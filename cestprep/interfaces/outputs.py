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


class SavedOutputSpec(TraitedSpec):
    """Outputs of the writers."""

    out_files = OutputMultiObject(File(exists=True), desc="files written")


class SaveReference(SimpleInterface):
    """Write the session's reference image."""

    input_spec = SessionInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import write_reference

        datasets = {name: Path(root) for name, root in self.inputs.datasets.items()}
        path = write_reference(self.inputs.plan, Path(self.inputs.out_dir), datasets)
        self._results["out_files"] = [str(path)]
        return runtime


class SaveStageInputSpec(SessionInputSpec):
    """Inputs of `SaveStage`."""

    stage = traits.Str(mandatory=True, desc="name of the stage")
    method = traits.Str(mandatory=True, desc="estimation method")
    estimate = File(exists=True, mandatory=True, desc="estimate (.npz)")


class SaveStage(SimpleInterface):
    """Write the maps of one stage with their sidecars."""

    input_spec = SaveStageInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import reference_path, stage_fields, write_stage
        from cestprep.bids.observe import load_estimate
        from cestprep.inference import methods

        session, method = self.inputs.plan, self.inputs.method
        plan = session.stage(self.inputs.stage)
        out_dir = Path(self.inputs.out_dir)
        datasets = {name: Path(root) for name, root in self.inputs.datasets.items()}
        fields = stage_fields(session, plan, method, methods.load(method).TITLE, datasets)
        written = write_stage(
            session, plan, load_estimate(Path(self.inputs.estimate)), method, fields, out_dir,
            reference_path(session, out_dir),
        )
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveReportInputSpec(SessionInputSpec):
    """Inputs of `SaveReport`."""

    method = traits.Str(mandatory=True, desc="estimation method")
    estimates = InputMultiObject(File(exists=True), mandatory=True, desc="estimates, stage by stage")
    command = traits.Str(nohash=True, desc="command line, for the record")


class SaveReport(SimpleInterface):
    """Write the HTML report and the quality table of a session."""

    input_spec = SaveReportInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.observe import load_estimate
        from cestprep.report.session import write_quality_table, write_report

        session, out_dir = self.inputs.plan, Path(self.inputs.out_dir)
        estimates = {
            plan.stage.name: load_estimate(Path(f))
            for plan, f in zip(session.stages, self.inputs.estimates, strict=True)
        }
        written = [
            write_report(session, estimates, self.inputs.method, out_dir, self.inputs.command),
            *write_quality_table(session, estimates, self.inputs.method, out_dir),
        ]
        self._results["out_files"] = [str(p) for p in written]
        return runtime
