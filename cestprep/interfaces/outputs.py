"""nipype interfaces that write derivatives and reports."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    OutputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)


class SessionInputSpec(BaseInterfaceInputSpec):
    """Inputs that all writers share."""

    plan = traits.Any(mandatory=True, desc="SessionPlan")
    in_files = InputMultiObject(File(exists=True), mandatory=True, desc="images the plan names")
    out_dir = traits.Str(mandatory=True, desc="output dataset")
    datasets = traits.Dict(mandatory=True, desc="roots of the input datasets by name")
    method = traits.Str(mandatory=True, desc="estimation method")
    mode = traits.Str(mandatory=True, desc="fit, transfer or transfer+refine")
    options = traits.Dict(mandatory=True, desc="options of the method, by name, as texts")
    seed = traits.Int(0, usedefault=True, desc="random seed")
    made_files = InputMultiObject(File(exists=True), desc="files that are made before")


class SavedOutputSpec(TraitedSpec):
    """Outputs of the writers."""

    out_files = OutputMultiObject(File(exists=True), desc="files written")


def sink_of(inputs: Any) -> Any:
    """Sink that a writer's inputs describe."""
    from cestprep.bids.derivatives import Sink
    from cestprep.bids.quantify import settings_of

    datasets = {name: Path(root) for name, root in inputs.datasets.items()}
    options = asdict(settings_of(inputs.method, inputs.options, inputs.mode))
    return Sink(
        Path(inputs.out_dir), datasets, inputs.method, inputs.mode, options, inputs.seed
    )


class SaveReference(SimpleInterface):
    """Write the session's reference image and what the estimation starts from."""

    input_spec = SessionInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import write_reference
        from cestprep.bids.preprocessed import write_preprocessed

        sink, session = sink_of(self.inputs), self.inputs.plan
        written = [*write_reference(sink, session), *write_preprocessed(sink, session)]
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveStageInputSpec(SessionInputSpec):
    """Inputs of `SaveStage`."""

    stage = traits.Str(mandatory=True, desc="name of the stage")
    estimate = File(exists=True, mandatory=True, desc="estimate (.npz)")
    record = File(exists=True, mandatory=True, desc="noise of the fit (.json)")
    network = InputMultiObject(File(exists=True), desc="weights and record of a trained network")


class SaveStage(SimpleInterface):
    """Write the maps of one stage with their sidecars."""

    input_spec = SaveStageInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.derivatives import copy_network, write_stage
        from cestprep.bids.observe import load_estimate, load_record

        sink, session = sink_of(self.inputs), self.inputs.plan
        estimate = load_estimate(Path(self.inputs.estimate))
        record = load_record(Path(self.inputs.record))
        plan = session.stage(self.inputs.stage)
        written = write_stage(sink, session, plan, estimate, record)
        if isdefined(self.inputs.network):
            written += copy_network(sink, session, plan, [Path(f) for f in self.inputs.network])
        self._results["out_files"] = [str(p) for p in written]
        return runtime


class SaveReportInputSpec(SessionInputSpec):
    """Inputs of `SaveReport`."""

    estimates = InputMultiObject(
        File(exists=True), desc="estimates, stage by stage; none where the run stopped before"
    )
    records = InputMultiObject(
        File(exists=True), desc="noise and medians under both normalisations, stage by stage"
    )
    command = traits.Str(nohash=True, desc="command line, for the record")


class SaveReport(SimpleInterface):
    """Write the HTML report and the quality table of a session."""

    input_spec = SaveReportInputSpec
    output_spec = SavedOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from cestprep.bids.observe import load_estimate, load_record
        from cestprep.report.session import write_report, write_tables

        sink, session, asked = sink_of(self.inputs), self.inputs.plan, self.inputs
        names = [plan.stage.name for plan in session.stages] if isdefined(asked.estimates) else []
        estimates = {n: load_estimate(Path(f)) for n, f in zip(names, asked.estimates, strict=True)
                     } if names else {}  # fmt: skip
        records = {n: load_record(Path(f)) for n, f in zip(names, asked.records, strict=True)
                   } if names else {}  # fmt: skip
        written = [
            write_report(sink, session, estimates, records, self.inputs.command),
            *write_tables(sink, session, estimates),
        ]
        self._results["out_files"] = [str(p) for p in written]
        return runtime
