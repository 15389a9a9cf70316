"""A raw session of a moving head, from end to end: coarse, so that it takes a minute or two."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sessions
import yaml

from cestprep.bids import digital
from cestprep.bids.synthetic import write_volume
from cestprep.bids.validation import validate
from cestprep.data import load_recipe
from cestprep.imaging.tissue import TISSUES
from cestprep.inference.recipe import Recipe
from cestprep.phantom.motion import pose

SES = "sub-01/ses-01"
STEM = f"{SES}/{{}}/sub-01_ses-01_{{}}.nii.gz"
VOXEL_MM = 6.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A session of MT alone, and its recipe."""
    root = tmp_path_factory.mktemp("moving")
    mapping = copy.deepcopy(load_recipe("brain-3t"))
    mapping["stages"] = mapping["stages"][:1]
    (root / "mt.yaml").write_text(yaml.safe_dump(mapping))
    with pytest.MonkeyPatch.context() as patch:
        coarse = digital.Size(VOXEL_MM, (32, 36, 11), 2.0)
        patch.setitem(digital.SIZES, "tiny", coarse)
        digital.write_session(root / "bids", digital.Options(Recipe.from_mapping(mapping), seed=4))
    return root


def run(folder, out, *extra):
    arguments = [str(folder / "bids"), str(folder / out), "participant", "-w", str(folder / "work")]
    return sessions.run([*arguments, "--recipe", str(folder / "mt.yaml"), *extra])


PREPARE = ("--sloppy", "--stop-after", "preproc", "--output-spaces", "MNI152NLin2009aSym:res-2")


@pytest.fixture(scope="module")
def prepared(folder):
    done = run(folder, "out", *PREPARE)
    assert done.returncode == 0, done.stderr
    return done


def load(root, kind, name):
    return nib.load(root / STEM.format(kind, name)).get_fdata(dtype=np.float32)


def truth(folder, kind, name):
    return load(folder / "bids/derivatives/truth", kind, name)


def inner(folder):
    labels = truth(folder, "anat", "space-cestref_seg-tissue_dseg")
    brain = truth(folder, "cest", "space-cestref_desc-brain_mask") > 0
    return labels, brain


def test_report_and_dataset_say_that_the_run_was_sloppy(folder, prepared):
    assert "made with --sloppy" in next((folder / "out").glob("*.html")).read_text()
    about = json.loads((folder / "out/dataset_description.json").read_text())
    assert "--sloppy" in about["GeneratedBy"][0]["Description"]


def test_output_is_valid_and_nothing_is_left_half_written(folder, prepared):
    report = validate(folder / "out")
    assert not report.errors
    assert not list((folder / "out").rglob(".tmp-*"))


def test_maps_are_near_the_truth(folder, prepared):
    labels, brain = inner(folder)
    for kind, name, most in (
        ("anat", "T1map", 0.03), ("anat", "T2map", 0.05), ("fmap", "TB1map", 0.01),
    ):  # fmt: skip
        true, found = (load(root, kind, f"space-cestref_{name}")
                       for root in (folder / "bids/derivatives/truth", folder / "out"))  # fmt: skip
        known = (labels == 1) & (found > 0)
        assert known.sum() > 0.6 * (labels == 1).sum()
        assert abs(np.median(found[known] / true[known]) - 1) < most
    b0 = load(folder / "out", "fmap", "space-cestref_fieldmap")
    known = brain & np.isfinite(b0)
    away = np.abs(b0 - truth(folder, "fmap", "space-cestref_fieldmap"))[known]
    assert np.median(away) / digital.FREQUENCY_MHZ < 0.02
    mask = load(folder / "out", "cest", "space-cestref_desc-brain_mask") > 0
    assert 2 * (mask & brain).sum() / (mask.sum() + brain.sum()) > 0.95


def test_motion_is_found_and_written_with_units(folder, prepared):
    """Head displacements agree with the truth to a fraction of the voxel."""
    name = f"{SES}/cest/sub-01_ses-01_acq-mt_desc-motion_timeseries"
    found = pd.read_csv(folder / f"out/{name}.tsv", sep="\t", na_values="n/a")
    true = pd.read_csv(folder / f"bids/derivatives/truth/{name}.tsv", sep="\t")
    shift = ["trans_x", "trans_y", "trans_z"]
    before = np.abs(true[shift]).to_numpy().max()
    left = np.abs(found[shift] - true[shift]).to_numpy()
    assert before > 1.5
    assert left.mean() < 0.1 * VOXEL_MM
    about = json.loads((folder / f"out/{name}.json").read_text())
    assert about["trans_x"]["Units"] == "mm"
    assert about["LostVolumes"] == []


def test_maps_in_the_template_are_those_of_the_head(folder, prepared):
    space = "space-MNI152NLin2009aSym_res-2"
    native = load(folder / "out", "anat", "space-cestref_T1map")
    brought = load(folder / "out", "anat", f"{space}_T1map")
    assert brought.shape == (99, 117, 95)
    assert np.median(brought[brought > 0]) == pytest.approx(np.median(native[native > 0]), rel=0.03)
    volume = (native > 0).sum() * VOXEL_MM**3
    assert (brought > 0).sum() * 8 == pytest.approx(volume, rel=0.25)
    labels = load(folder / "out", "anat", "space-MNI152NLin2009aSym_seg-tissue_res-2_dseg")
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    about = json.loads(next((folder / "out").rglob(f"*{space}_T1map.json")).read_text())
    assert about["Units"] == "s"
    assert "2 mm" in about["Resolution"]
    assert "SpatialReference" not in about


def test_a_second_run_repeats_nothing(folder, prepared):
    again = run(folder, "out", *PREPARE)
    assert again.returncode == 0, again.stderr
    assert " 0 nodes run" in again.stderr


def test_what_was_prepared_is_taken_up(folder, prepared):
    done = run(folder, "other", "--derivatives", f"prep={folder / 'out'}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert re.search(r"T1: .*T1map.nii.gz with SD map", done.stdout)
    assert "motion:" not in done.stdout


def test_a_segmented_anatomy_gives_brain_and_tissues(folder, prepared):
    """As fMRIPrep leaves it, on a grid and in a place of its own."""
    anatomy, true = folder / "fmriprep", folder / "bids/derivatives/truth"
    labels, brain = inner(folder)
    t1 = truth(folder, "anat", "space-cestref_T1map")
    parts = {"desc-preproc_T1w": np.where(t1 > 0, 1000 / np.maximum(t1, 0.1), 0),
             "desc-brain_mask": brain.astype(np.uint8)}  # fmt: skip
    for value, name in enumerate(TISSUES, start=1):
        parts[f"label-{name}_probseg"] = (labels == value).astype(np.float32)
    elsewhere = pose((3.0, -4.0, 5.0), (6.0, -5.0, 4.0))
    native = nib.load(folder / "bids" / STEM.format("cest", "acq-mt_cest"))
    placed = nib.Nifti1Image(np.zeros(brain.shape), elsewhere @ native.affine)
    anatomy.mkdir()
    description = (true / "dataset_description.json").read_text()
    (anatomy / "dataset_description.json").write_text(description)
    for name, data in parts.items():
        write_volume(anatomy, f"sub-01/anat/sub-01_{name}", data.astype(np.float32), placed, {})
    given = ("--derivatives", f"anat={anatomy}", "--stop-after", "preproc", "--sloppy")
    done = run(folder, "with_anatomy", *given, "--assume-nominal", "B0", "B1")
    assert done.returncode == 0, done.stderr
    found = load(folder / "with_anatomy", "cest", "space-cestref_desc-brain_mask") > 0
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.93
    tissues = load(folder / "with_anatomy", "anat", "space-cestref_seg-tissue_dseg")
    both = found & brain
    assert (tissues == labels)[both].mean() > 0.8


def test_maps_of_an_animal_are_made_where_its_images_lie(tmp_path):
    """Nothing is registered and no brain is looked for; T1 comes from the scan beside."""
    bids = sessions.write(tmp_path / "bids", shape=(8, 8, 1))
    stem = bids / STEM.format("anat", "T1map").removesuffix(".nii.gz")
    image = nib.load(f"{stem}.nii.gz")
    t1, scanner = image.get_fdata(), json.loads(Path(f"{stem}.json").read_text())
    for end in (".nii.gz", ".json"):
        Path(f"{stem}{end}").unlink()
    delays = [6.0, 4.0, 2.5, 1.5, 0.8, 0.4]
    known = t1 > 0
    rate = np.where(known, 1 / np.where(known, t1, 1.0), 0)
    data = 1000 * -np.expm1(-rate[..., None] * np.array(delays))
    about = {key: value for key, value in scanner.items() if key != "Units"}
    name = STEM.format("anat", "SRT1").removesuffix(".nii.gz")
    write_volume(bids, name, data.astype(np.float32), image,
                 about | {"SaturationRecoveryTime": delays})  # fmt: skip
    extra = ("--stop-after", "preproc")
    done = sessions.run(sessions.arguments(bids, tmp_path / "out", tmp_path / "work", *extra))
    assert done.returncode == 0, done.stderr
    found = load(tmp_path / "out", "anat", "space-cestref_T1map")
    mask = load(bids / "derivatives/masks", "cest", "desc-brain_mask") > 0
    np.testing.assert_allclose(found[mask], t1[mask], rtol=2e-3)
    report = next((tmp_path / "out").glob("*.html")).read_text()
    assert "nothing was registered: recipe mouse-7t is for animals" in report
    assert not list((tmp_path / "out").rglob("*_xfm.*"))
