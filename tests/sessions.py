"""Small synthetic sessions for tests, and ways to run the program on them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import problems

from cestprep.bids.demo import DemoOptions, write_demo
from cestprep.bids.plan import SessionPlan, plan_session
from cestprep.bids.session import make_layout, select_session


def write(root: Path, recipe: str = "mouse-7t", shape=(8, 8, 1), seed: int = 0) -> Path:
    """A synthetic dataset with one session ``sub-01_ses-01``."""
    options = DemoOptions(
        problems.recipe(recipe),
        frequency_mhz=298.03 if recipe == "mouse-7t" else 123.25,
        pulsed=recipe != "mouse-7t",
        shape=shape,
        seed=seed,
    )
    write_demo(root, options)
    return root


def copy(source: Path, target: Path) -> Path:
    """A dataset that may be broken."""
    shutil.copytree(source, target)
    return target


def plan(root: Path, assume_nominal=(), recipe: str = "mouse-7t", **options) -> SessionPlan:
    """What the program would do with a dataset's session and its own masks."""
    masks = make_layout(root / "derivatives/masks", ["01"])
    files = select_session(make_layout(root, ["01"]), {"masks": masks}, "01", "01")
    return plan_session(files, problems.recipe(recipe), assume_nominal, **options)


def arguments(
    bids: Path,
    out: Path,
    work: Path,
    *extra: str,
    recipe: str = "mouse-7t",
    method: str = "voxelwise",
) -> list[str]:
    """Command line of a participant-level run with the dataset's own masks.

    The method is not the default, which trains for longer than most tests need.
    """
    masks = f"masks={bids / 'derivatives/masks'}"
    return [str(bids), str(out), "participant", "--recipe", recipe, "--derivatives", masks,
            "--method", method, "-w", str(work), *extra]  # fmt: skip


def run(arguments: list[str], timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does, in a process of its own."""
    command = [sys.executable, "-m", "cestprep", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def status(out: Path) -> dict:
    """Content of the newest status file."""
    newest = max(out.glob("logs/*/status.json"), key=lambda p: p.stat().st_mtime_ns)
    return json.loads(newest.read_text())


def edit_json(path: Path, **fields) -> None:
    """Change fields of a JSON file; None takes a field out."""
    content = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def change_image(stem: str, change, affine=None):
    """A breakage: the image ``stem``.nii.gz of a dataset with its data (or affine) changed."""

    def apply(root: Path) -> None:
        path = root / f"{stem}.nii.gz"
        image = nib.load(path)
        data = change(image.get_fdata(dtype=np.float32))
        nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), path)

    return apply


def sd_of_t1(change, **fields):
    """A change of a dataset: an SD map beside T1, ``change`` of 1 % of it."""

    def apply(root: Path) -> None:
        stem = root / "sub-01/ses-01/anat/sub-01_ses-01"
        image = nib.load(f"{stem}_T1map.nii.gz")
        data = change(0.01 * image.get_fdata(dtype=np.float32))
        nib.save(nib.Nifti1Image(data, image.affine), f"{stem}_stat-std_T1map.nii.gz")
        Path(f"{stem}_stat-std_T1map.json").write_text(json.dumps({"Units": "s", **fields}))

    return apply


def put(value, place=(2, 2, 0)):
    """A change of image data: one value at one place."""

    def change(data):
        data[place] = value
        return data

    return change
