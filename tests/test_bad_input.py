"""Twelve kinds of bad input through the program: exit code, sentence, nothing left behind."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import sessions
from sessions import change_image, put

from cestprep.cli.participant import main

SERIES = "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cest"
T1 = "sub-01/ses-01/anat/sub-01_ses-01_T1map"
MASK = "derivatives/masks/sub-01/ses-01/cest/sub-01_ses-01_desc-brain_mask"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("pristine") / "bids", shape=(4, 4, 1))


def truncate(root):
    path = root / f"{SERIES}.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def offsets_in_hertz(root):
    path = root / f"{SERIES}context.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows[2:]:
        row[1] = str(float(row[1]) * 298.03)
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")


INPUTS = {
    "missing folder": (shutil.rmtree, [], 2, "is not a folder"),
    "unknown label": (lambda r: None, ["--participant-label", "99"], 2, "There are 01"),
    "truncated NIfTI": (truncate, [], 65, "cannot be read as NIfTI"),
    "rows and volumes": (change_image(SERIES, lambda d: d[..., 1:]), [], 65, "has 31 rows"),
    "NaN data": (change_image(SERIES, put(np.nan, (2, 2, 0, 3))), [], 65, "NaN or infinite"),
    "negative data": (change_image(SERIES, put(-5, (2, 2, 0, 3))), [], 65, "negative values"),
    "no B1 definition": (
        lambda r: sessions.edit_json(r / f"{SERIES}.json", SaturationB1Definition=None),
        [],
        65,
        "SaturationB1Definition is missing",
    ),
    "T1map in ms": (change_image(T1, lambda d: 1000 * d), [], 65, "Check the unit of the map"),
    "unusable session": (lambda r: shutil.rmtree(r / "sub-01/ses-01/cest"), [], 65, "found 0"),
    "mismatched grids": (change_image(T1, lambda d: d[:-1]), [], 65, "Resample all images"),
    "unreadable JSON": (
        lambda r: (r / f"{SERIES}.json").write_text("{"),
        [],
        65,
        "cannot be read as JSON",
    ),
    "offsets in Hz": (offsets_in_hertz, [], 65, "is no plausible ppm (Hz perhaps?)"),
    "empty mask": (change_image(MASK, lambda d: 0 * d), [], 65, "the mask is empty"),
}


@pytest.mark.parametrize(("breakage", "extra", "code", "says"), INPUTS.values(), ids=INPUTS)
def test_bad_input(pristine, tmp_path, capsys, breakage, extra, code, says):
    root = sessions.copy(pristine, tmp_path / "bids")
    arguments = sessions.arguments(root, tmp_path / "out", tmp_path / "work", *extra)
    breakage(root)
    assert main(arguments) == code
    said = capsys.readouterr().err
    assert says in said
    assert "Traceback" not in said
    out = tmp_path / "out"
    written = {p.name for p in out.rglob("*") if p.is_file()} if out.exists() else set()
    expected = {"dataset_description.json", ".bidsignore", "cestprep.toml", "status.json"}
    assert written == (set() if code == 2 else expected | {"sub-01_ses-01.html"})


def test_one_bad_session_does_not_stop_the_others(pristine, tmp_path, capsys):
    root = sessions.copy(pristine, tmp_path / "bids")
    for folder in (root, root / "derivatives/masks"):
        shutil.copytree(folder / "sub-01", folder / "sub-02")
        for path in sorted((folder / "sub-02").rglob("sub-01*")):
            path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    truncate(root)
    arguments = sessions.arguments(root, tmp_path / "out", tmp_path / "work", "--dry-run")
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "sub-02_ses-01: recipe" in said.out
    assert "sub-01_ses-01 cannot be processed" in said.err
