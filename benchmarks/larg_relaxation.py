"""MAPE of the 9.4 T L-arginine phantom over assumed T1 and T2; prints rows for docs/validation.rst.

python benchmarks/larg_relaxation.py ../shared/data/larg9t4
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cestprep.bids.files import image_data
from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.sidecars import metadata
from cestprep.data import load_recipe
from cestprep.inference.methods import voxelwise
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.recipe import Recipe

T1_S = (2.5, 2.75, 3.0)
T2_S = (0.75, 1.1, 1.2)
MM_PER_FRACTION = 110e3 / 3


def fitted_mm(data: np.ndarray, protocol, t1_s: float, t2_s: float) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Concentration of every voxel, in mM."""
    raw = load_recipe("larg-9t4")
    constants = raw["stages"][0]["constants"]
    constants["t1"]["value"], constants["t2"]["value"] = t1_s, t2_s
    recipe = Recipe.from_mapping(raw)
    problem = InverseProblem.of_stage(recipe, recipe.stages[0], protocol)
    n = data.shape[1]
    known = np.stack([np.zeros(n), np.ones(n)])
    found = voxelwise.estimate(problem, Observation(data, known, np.zeros((2, 2, n))))
    return np.where(found.valid, found.mean[0], np.nan) * MM_PER_FRACTION


def main(root: Path) -> None:
    """Print MAPE of vial means and of voxels."""
    series = root / "sub-larg9t4/cest/sub-larg9t4_acq-larg_cest.nii.gz"
    context = series.with_name(series.name.replace("_cest.nii.gz", "_cestcontext.tsv"))
    protocol = build_protocol(read_context(context), metadata(series, root), series, context)
    folder = root / "derivatives/published/sub-larg9t4/cest"
    mask = image_data(folder / "sub-larg9t4_desc-vials_mask.nii.gz") > 0
    from scipy import ndimage

    vial = ndimage.label(mask)[0][mask]
    data = image_data(series)[mask].T
    for t1 in T1_S:
        for t2 in T2_S:
            mm = fitted_mm(data, protocol, t1, t2)
            means = np.array([np.nanmean(mm[vial == v]) for v in np.unique(vial)])
            vials = " / ".join(f"{m:.1f}" for m in means)
            of_means, of_voxels = (np.nanmean(np.abs(x - 50)) * 2 for x in (means, mm))
            print(
                f"{t1:.2f} s   {t2:.2f} s   {vials:20} {of_means:7.1f} % {of_voxels:7.1f} %",
                flush=True,
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
