"""Input checks: each fault has a sentence with file, finding and remedy; all come at once."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import sessions
from sessions import change_image, plan, put, sd_of_t1

from cestprep.errors import InputError
from cestprep.settings import ALL_STAGES

SERIES = "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cest"
T1 = "sub-01/ses-01/anat/sub-01_ses-01_T1map"
B1 = "sub-01/ses-01/fmap/sub-01_ses-01_TB1map"
B0 = "sub-01/ses-01/fmap/sub-01_ses-01_fieldmap"
DSEG = "derivatives/masks/sub-01/ses-01/anat/sub-01_ses-01_seg-tissue_dseg"
MASK = "derivatives/masks/sub-01/ses-01/cest/sub-01_ses-01_desc-brain_mask"


def change_json(stem, **fields):
    return lambda root: sessions.edit_json(root / f"{stem}.json", **fields)


def remove(*names):
    return lambda root: [(root / name).unlink() for name in names]


def truncate(root):
    path = root / f"{SERIES}.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def labels(rows):
    return lambda root: (root / f"{DSEG}.tsv").write_text("index\tname\n" + rows)


def corrupt(root):
    path = root / f"{T1}.nii.gz"
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


def shifted(stem):
    """Move an image by 3 mm."""

    def change(root):
        path = root / f"{stem}.nii.gz"
        image = nib.load(path)
        away = image.affine + 3 * np.eye(4, k=3)
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), away), path)

    return change


def same_target(root):
    change_json(SERIES.replace("acq-mt", "acq-amide"), SaturationTarget=["semisolid"])(root)


BREAKAGES = {
    "truncated image": (truncate, "cannot be read as NIfTI"),
    "text instead of image": (
        lambda r: (r / f"{SERIES}.nii.gz").write_text("no image"),
        "cannot be read as NIfTI",
    ),
    "rows and volumes": (
        change_image(SERIES, lambda d: d[..., :-1]),
        "has 30 volumes, but .* has 31 rows",
    ),
    "3D series": (change_image(SERIES, lambda d: d[..., 0]), "has 1 volumes"),
    "NaN": (change_image(SERIES, put(np.nan, (2, 2, 0, 5))), "infinite values in volumes 6"),
    "infinite": (change_image(SERIES, put(np.inf, (2, 2, 0, 5))), "NaN or infinite"),
    "negative": (change_image(SERIES, put(-1, (2, 2, 0, 5))), "negative values"),
    "zero": (change_image(SERIES, lambda d: 0 * d), "zero everywhere in the mask"),
    "zero volume": (change_image(SERIES, put(0, (..., 5))), "volumes 6 are zero"),
    "5D series": (change_image(SERIES, lambda d: d[..., None]), "has 5 axes"),
    "complex": (change_image(SERIES, lambda d: d * (1 + 1j)), "expected real numbers"),
    "field NaN": (
        change_json(SERIES, MagneticFieldStrength=float("nan")),
        "NaN is no number of JSON",
    ),
    "unit of a list": (change_json(T1, Units=["s"]), "Units is"),
    "B0 in Hz called ppm": (change_json(B0, Units="ppm"), "most voxels lie outside"),
    "negative SD": (sd_of_t1(lambda d: -d), "no map of standard deviations"),
    "SD of NaN": (sd_of_t1(lambda d: d * np.nan), "no map of standard deviations"),
    "SD of 4 axes": (sd_of_t1(lambda d: np.stack([d, d], -1)), "has 4 axes"),
    "SD in ms": (sd_of_t1(lambda d: d, Units="ms"), "Give both maps in one unit"),
    "corrupt compression": (corrupt, "cannot be read as NIfTI"),
    "no table": (remove(f"{SERIES}context.tsv"), "has no cestcontext.tsv"),
    "broken sidecar": (lambda r: (r / f"{SERIES}.json").write_text("{"), "cannot be read as JSON"),
    "sidecar is a list": (lambda r: (r / f"{SERIES}.json").write_text("[]"), "no JSON object"),
    "no target": (change_json(SERIES, SaturationTarget=None), "found 0"),
    "target of another type": (change_json(SERIES, SaturationTarget=3), "SaturationTarget is 3"),
    "two series": (same_target, "found 2"),
    "other field": (change_json(SERIES, MagneticFieldStrength=3), "is for 7 T"),
    "frequency in Hz": (change_json(SERIES, SpectrometerFrequency=298.03e6), "resonate near 298"),
    "no T1": (remove(f"{T1}.nii.gz", f"{T1}.json"), "no T1 map"),
    "T1 in ms by sidecar": (change_json(T1, Units="ms"), "Units is 'ms', expected s"),
    "T1 in ms by value": (change_image(T1, lambda d: 1000 * d), "median T1 in the mask is"),
    "T1 of zeros": (change_image(T1, lambda d: 0 * d), "no value inside the mask"),
    "4D T1": (change_image(T1, lambda d: np.stack([d, d], axis=-1)), "has 4 axes"),
    "T1 on another grid": (
        change_image(T1, lambda d: d, np.eye(4)),
        "voxels of 1 x 1 x 1 mm instead of",
    ),
    "T1 elsewhere": (shifted(T1), "places voxels up to 3 mm elsewhere"),
    "T1 of another size": (
        change_image(T1, lambda d: d[:-1]),
        "3 x 4 x 1 voxels instead of 4 x 4 x 1",
    ),
    "no B1": (remove(f"{B1}.nii.gz", f"{B1}.json"), "--assume-nominal B1"),
    "B1 without unit": (change_json(B1, Units=None), "Units is None, expected percent"),
    "B1 as factor called percent": (change_image(B1, lambda d: d / 100), "median B1 in the mask"),
    "B0 without unit": (change_json(B0, Units=None), "Units is None, expected ppm or Hz"),
    "B0 in rad/s": (change_json(B0, Units="rad/s"), "expected ppm or Hz"),
    "labels without names": (
        lambda r: (r / f"{DSEG}.tsv").write_text("index\tlabel\n1\tGM\n"),
        "no table of region labels",
    ),
    "label twice": (labels("1\tCSF\n2\tGM\n2\tWM\n3\tX\n"), "repeated index"),
    "name twice": (labels("1\tCSF\n2\tGM\n3\tGM\n"), "repeated or empty name"),
    "name empty": (labels("1\tCSF\n2\t\n3\tWM\n"), "repeated or empty name"),
    "infinite label": (labels("1\tCSF\ninf\tGM\n"), "no table of region labels"),
    "label without row": (labels("1\tCSF\n"), "no row for the label"),
    "labels of 4 axes": (change_image(DSEG, lambda d: d[..., None]), "has 4 axes"),
    "fractional labels": (change_image(DSEG, lambda d: d / 2), "are no labels"),
    "NaN label": (change_image(DSEG, put(np.nan, (2, 2, 0))), "are no labels"),
    "labels on another grid": (change_image(DSEG, lambda d: d[1:]), "3 x 4 x 1 voxels instead"),
    "no mask": (remove(f"{MASK}.nii.gz"), "no brain mask"),
    "empty mask": (change_image(MASK, lambda d: 0 * d), "the mask is empty"),
    "4D mask": (change_image(MASK, lambda d: np.stack([d, d], axis=-1)), "has 4 axes"),
    "mask on another grid": (change_image(MASK, lambda d: d[:, :-1]), "on the grid of the images"),
}  # fmt: skip


@pytest.mark.parametrize(("breakage", "says"), BREAKAGES.values(), ids=BREAKAGES)
def test_bad_input_is_named(dataset, breakage, says):
    breakage(dataset)
    with pytest.raises(InputError, match=says) as caught:
        plan(dataset)
    for fault in caught.value.faults:
        assert str(fault.where)
        assert fault.mend


def test_pristine_session_is_planned(dataset):
    planned = plan(dataset)
    assert [p.stage.name for p in planned.stages] == ["mt", "amide"]
    assert [a.quantity for a in planned.auxiliary] == ["T1", "T2", "B0", "B1"]
    by_quantity = {a.quantity: a.to_si for a in planned.auxiliary}
    assert by_quantity == {"T1": 1, "T2": 1, "B0": pytest.approx(1 / 298.03), "B1": 0.01}
    text = planned.describe()
    for word in ("acq-mt_cest.nii.gz", "31 volumes", "kssw 0-150 1/s", "desc-brain_mask"):
        assert word in text


def test_nominal_fields_only_on_request(dataset):
    remove(*(f"{m}{e}" for m in (B0, B1) for e in (".nii.gz", ".json")))(dataset)
    planned = plan(dataset, assume_nominal=("B0", "B1"))
    assert [(a.quantity, a.nominal) for a in planned.auxiliary if not a.image] == [
        ("B0", 0),
        ("B1", 1),
    ]


def test_nominal_field_beside_a_map_is_a_contradiction(dataset):
    with pytest.raises(InputError, match="contradicts the map"):
        plan(dataset, assume_nominal=("B0",))


def test_wrong_recipe_is_refused(dataset):
    with pytest.raises(InputError, match="recipe brain-3t is for 3 T"):
        plan(dataset, recipe="brain-3t")


def test_maps_outside_the_session_are_pointed_at(dataset):
    (dataset / "sub-01/anat").mkdir()
    (dataset / f"{T1}.nii.gz").rename(dataset / "sub-01/anat/sub-01_T1map.nii.gz")
    with pytest.raises(InputError, match=r"though there is .*sub-01_T1map"):
        plan(dataset)


def test_everything_is_said_at_once(dataset):
    change_json(SERIES, FlipAngle=None, M0Type=None)(dataset)
    change_json(T1, Units="ms")(dataset)
    remove(f"{MASK}.nii.gz")(dataset)
    with pytest.raises(InputError) as caught:
        plan(dataset)
    assert len(caught.value.faults) == 4


def test_zeros_in_t1_are_left_out_not_refused(dataset):
    change_image(T1, put(0))(dataset)
    assert plan(dataset)


def test_given_noise_reaches_its_stage(dataset):
    def given(**noise_sd):
        stages = plan(dataset, noise_sd=noise_sd).stages
        return {p.stage.name: p.noise_sd for p in stages}

    assert given() == {"mt": None, "amide": None}
    assert given(amide=4) == {"mt": None, "amide": 4}
    assert given(**{ALL_STAGES: 5.0}, amide=4) == {"mt": 5, "amide": 4}
    assert "noise SD 4 (--noise-sd)" in plan(dataset, noise_sd={"mt": 4}).describe()


def test_without_propagation_sd_maps_are_left_alone(dataset):
    sd_of_t1(lambda d: -d)(dataset)
    planned = plan(dataset, propagate=False)
    assert [a.sd for a in planned.auxiliary] == 4 * [None]
    assert "--no-propagate" in planned.describe()
