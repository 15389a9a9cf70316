"""nipype interface of the estimation step."""

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


class FitStageInputSpec(BaseInterfaceInputSpec):
    """Inputs of `FitStage`."""

    plan = traits.Any(mandatory=True, desc="SessionPlan")
    stage = traits.Str(mandatory=True, desc="name of the stage")
    method = traits.Str(mandatory=True, desc="estimation method")
    options = traits.Dict(mandatory=True, desc="options of the method, by name, as texts")
    mode = traits.Str("fit", usedefault=True, desc="fit, transfer or transfer+refine")
    training_dir = traits.Str(nohash=True, desc="where interrupted training is kept")
    seed = traits.Int(0, usedefault=True, desc="random seed")
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="all images the plan names, so that changes count"
    )
    made_files = InputMultiObject(File(exists=True), desc="files that are made before")
    earlier = InputMultiObject(File(exists=True), desc="estimates of the stages this one needs")


class FitStageOutputSpec(TraitedSpec):
    """Outputs of `FitStage`."""

    estimate = File(exists=True, desc="estimate of all voxels in the mask (.npz)")
    record = File(exists=True, desc="noise, and medians under both normalisations (.json)")
    network = OutputMultiObject(
        File(exists=True), desc="weights and record of the network, if one was trained"
    )


class FitStage(SimpleInterface):
    """Estimate the free parameters of one stage in all voxels of the mask."""

    input_spec = FitStageInputSpec
    output_spec = FitStageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.derivatives import levels
        from cestprep.bids.networks import write_network
        from cestprep.bids.observe import load_estimate, save_estimate, save_record
        from cestprep.bids.quantify import How, quantify
        from cestprep.inference.estimate import Validity
        from cestprep.progress import ProgressLine

        asked, session = self.inputs, self.inputs.plan
        plan = session.stage(asked.stage)
        files = asked.earlier if plan.inputs_from else []
        earlier = {n: load_estimate(Path(f)) for n, f in zip(plan.inputs_from, files, strict=True)}
        how = How(asked.method, asked.options, asked.mode, asked.seed, Path(asked.training_dir))
        line = ProgressLine(f"{session.label} {plan.stage.name}")
        found = quantify(session, plan, earlier, how, line)
        if not found.estimate.valid.any():
            meanings = levels(found.record.noise_source)
            reasons = {meanings[Validity(c)] for c in np.unique(found.estimate.validity)}
            why = f"no voxel could be estimated ({'; '.join(sorted(reasons))}). {found.record.doubt}"
            raise RuntimeError(why.strip())
        folder = Path(runtime.cwd)
        self._results["record"] = str(save_record(folder / "record.json", found.record))
        saved = save_estimate(folder / "estimate.npz", found.estimate)
        self._results["estimate"] = str(saved)
        networks = []
        if found.network is not None:
            path, about = folder / "network.safetensors", {"Stage": asked.stage}
            networks = [str(p) for p in write_network(path, found.network, about)]
        self._results["network"] = networks
        return runtime
