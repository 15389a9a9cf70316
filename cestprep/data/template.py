"""The packaged template of the head: ICBM 152 2009a symmetric, as nilearn ships it."""

from __future__ import annotations

import numpy as np

from cestprep.imaging.anatomy import Template

#: Name of the space in file names.
SPACE = "MNI152NLin2009aSym"


def brain_template() -> Template:
    """Tissues and brain of the template, 1 mm; inside nilearn's package, so without a network."""
    from nilearn import datasets  # takes a second, so only where it is used

    images = (
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    )
    wm, gm, brain = (image.get_fdata(dtype=np.float32) for image in images)
    return Template(wm, gm, brain, images[0].affine)
