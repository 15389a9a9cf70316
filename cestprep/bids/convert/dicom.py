"""DICOM folders, by dcm2niix."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from cestprep.bids.files import load_image, read_json
from cestprep.bids.sidecars import companion
from cestprep.errors import Fault, UsageError
from cestprep.resources import installed_program

_PROGRAM = "dcm2niix"
#: Values of DICOM's ImageType for what no magnitude is.
_NOT_MAGNITUDE = {"P", "PHASE", "R", "REAL", "I", "IMAGINARY", "COMPLEX"}


def read_dicom(folder: Path) -> tuple[nib.Nifti1Image, Mapping[str, Any]]:
    """The one series of a folder of DICOM files, and the sidecar fields its headers give.

    Raises
    ------
    UsageError
        If the converter is absent or fails, or there is not exactly one series.
    """
    program = installed_program(_PROGRAM)
    if program is None:
        mend = "Install it: pip install 'cestprep[convert]'; or convert to NIfTI yourself"
        raise UsageError(Fault(folder, f"DICOM folders need {_PROGRAM}", mend))
    with tempfile.TemporaryDirectory(prefix="cestprep-dicom-") as out:
        command = [program, "-b", "y", "-z", "y", "-f", "%s_%d", "-o", out, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        images = sorted(Path(out).glob("*.nii.gz"))
        if len(images) != 1:
            said = [line for line in done.stdout.splitlines() if line.startswith(("Error", "Warn"))]
            names = ", ".join(p.name.split(".")[0] for p in images) or "; ".join(said[-2:])
            what = f"holds {len(images)} series, expected one ({names or 'no DICOM files'})"
            raise UsageError(Fault(folder, what, "Give a folder with the files of one series"))
        found = load_image(images[0])
        sidecar = companion(images[0], ".json")
        fields = read_json(sidecar) if sidecar.exists() else {}
        kinds = _NOT_MAGNITUDE & set(map(str, fields.get("ImageType", [])))
        if kinds:
            what = f"holds images of type {', '.join(sorted(kinds))}, not magnitudes"
            raise UsageError(Fault(folder, what, "Give the folder of the magnitudes"))
        data = found.get_fdata(dtype=np.float32)
        image = nib.Nifti1Image(data, found.affine)
        image.header.set_xyzt_units("mm", "sec")
        return image, fields
