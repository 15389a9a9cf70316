"""nipype interface of the estimation step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    traits,
)


class FitStageInputSpec(BaseInterfaceInputSpec):
    """Inputs of `FitStage`."""

    plan = traits.Any(mandatory=True, desc="SessionPlan")
    stage = traits.Str(mandatory=True, desc="name of the stage")
    method = traits.Str(mandatory=True, desc="estimation method")
    seed = traits.Int(0, usedefault=True, desc="random seed")
    in_files = InputMultiObject(
        File(exists=True), mandatory=True, desc="all images the plan names, so that changes count"
    )
    earlier = InputMultiObject(File(exists=True), desc="estimates of the stages this one needs")


class FitStageOutputSpec(TraitedSpec):
    """Outputs of `FitStage`."""

    estimate = File(exists=True, desc="estimate of all voxels in the mask (.npz)")
    normalization = File(exists=True, desc="medians under both normalisations (.json)")


class FitStage(SimpleInterface):
    """Estimate the free parameters of one stage in all voxels of the mask."""

    input_spec = FitStageInputSpec
    output_spec = FitStageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        from dataclasses import asdict

        import numpy as np

        from cestprep.bids.files import write_json
        from cestprep.bids.observe import load_estimate, observe, save_estimate
        from cestprep.inference import methods
        from cestprep.inference.estimate import LEVELS, Estimate, Validity
        from cestprep.inference.normalization import compare_normalizations
        from cestprep.inference.solving import estimate as estimate_voxels
        from cestprep.progress import ProgressLine

        session = self.inputs.plan
        plan = session.stage(self.inputs.stage)
        files = self.inputs.earlier if plan.inputs_from else []
        earlier = {n: load_estimate(Path(f)) for n, f in zip(plan.inputs_from, files, strict=True)}
        observation, usable = observe(session, plan, earlier)
        codes = np.where(usable, Validity.OK, Validity.MISSING_AUXILIARY)
        estimate = Estimate.blank(len(plan.stage.free), plan.problem.protocol.n_volumes, codes)
        comparison = None
        if usable.any():
            method, seed = methods.load(self.inputs.method), self.inputs.seed
            seen, what = observation.take(usable), f"{session.label} {plan.stage.name}"
            part = estimate_voxels(method, plan.problem, seen, seed, ProgressLine(what))
            estimate = estimate.fill(usable, part)
            comparison = compare_normalizations(plan.problem, seen, part, method, seed)
        if not estimate.valid.any():
            reasons = {LEVELS[Validity(c)] for c in np.unique(estimate.validity)}
            raise RuntimeError(f"no voxel could be estimated ({'; '.join(sorted(reasons))})")
        path = Path(runtime.cwd) / "normalization.json"
        write_json(path, asdict(comparison) if comparison else {})
        self._results["normalization"] = str(path)
        self._results["estimate"] = str(save_estimate(Path(runtime.cwd) / "estimate.npz", estimate))
        return runtime
