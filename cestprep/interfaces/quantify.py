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


class FitStage(SimpleInterface):
    """Estimate the free parameters of one stage in all voxels of the mask."""

    input_spec = FitStageInputSpec
    output_spec = FitStageOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        import numpy as np

        from cestprep.bids.observe import load_estimate, observe, save_estimate
        from cestprep.inference import methods
        from cestprep.inference.estimate import LEVELS, Estimate, Validity
        from cestprep.progress import ProgressLine

        session = self.inputs.plan
        plan = session.stage(self.inputs.stage)
        files = self.inputs.earlier if plan.inputs_from else []
        earlier = {n: load_estimate(Path(f)) for n, f in zip(plan.inputs_from, files, strict=True)}
        observation, usable = observe(session, plan, earlier)
        codes = np.where(usable, Validity.OK, Validity.MISSING_AUXILIARY)
        estimate = Estimate.blank(len(plan.stage.free), plan.problem.protocol.n_volumes, codes)
        if usable.any():
            part = methods.load(self.inputs.method).estimate(
                plan.problem,
                observation.take(usable),
                seed=self.inputs.seed,
                progress=ProgressLine(f"{session.label} {plan.stage.name}"),
            )
            estimate = estimate.fill(usable, part)
        if not estimate.valid.any():
            reasons = {LEVELS[Validity(c)] for c in np.unique(estimate.validity)}
            raise RuntimeError(f"no voxel could be estimated ({'; '.join(sorted(reasons))})")
        self._results["estimate"] = str(save_estimate(Path(runtime.cwd) / "estimate.npz", estimate))
        return runtime
