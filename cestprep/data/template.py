"""The packaged template of the head: ICBM 152 2009a symmetric, as nilearn ships it."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from cestprep.imaging.anatomy import Template

#: Name of the space in file names.
SPACE = "MNI152NLin2009aSym"


def brain_template() -> Template:
    """Tissues and brain of the template."""
    images = load_template()
    wm, gm, brain = (images[n].get_fdata(dtype=np.float32) for n in ("wm", "gm", "brain"))
    return Template(wm, gm, brain, images["wm"].affine)


def load_template() -> dict[str, nib.Nifti1Image]:
    """Images ``t1w`` (skull-stripped), ``gm``, ``wm`` (probabilities) and ``brain``, 1 mm, RAS.

    They are inside nilearn's package, so no network is needed.
    """
    from nilearn import datasets  # takes a second, so only where it is used

    return {
        "t1w": datasets.load_mni152_template(resolution=1),
        "gm": datasets.load_mni152_gm_template(resolution=1),
        "wm": datasets.load_mni152_wm_template(resolution=1),
        "brain": datasets.load_mni152_brain_mask(resolution=1),
    }
