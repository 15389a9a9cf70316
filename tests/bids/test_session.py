"""Which files of a dataset belong to a session."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import sessions

from cestprep.bids.session import choose_sessions, list_sessions, make_layout, select_session
from cestprep.errors import InputError, UsageError


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("dataset") / "bids", shape=(4, 4, 1))


def select(root, subject="01", session="01", derivatives=("masks",)):
    layouts = {d: make_layout(root / "derivatives" / d, [subject]) for d in derivatives}
    return select_session(make_layout(root, [subject]), layouts, subject, session)


def test_series_maps_mask_and_regions(dataset):
    found = select(dataset)
    assert found.label == "sub-01_ses-01"
    assert {t: s.image.name for s in found.series for t in s.targets} == {
        "semisolid": "sub-01_ses-01_acq-mt_cest.nii.gz",
        "amide": "sub-01_ses-01_acq-amide_cest.nii.gz",
    }
    assert all(s.context.name.endswith("_cestcontext.tsv") for s in found.series)
    assert set(found.maps) == {"T1", "T2", "B0", "B1"}
    assert found.maps["B0"].fields["Units"] == "Hz"
    assert found.mask.name == "sub-01_ses-01_desc-brain_mask.nii.gz"
    assert [(r.name, r.table.name) for r in found.regions] == [
        ("tissue", "sub-01_ses-01_seg-tissue_dseg.tsv")
    ]


def test_series_are_found_by_target_not_by_label(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    folder = root / "sub-01/ses-01/cest"
    for old, new in (("acq-mt", "acq-x"), ("acq-amide", "acq-mt"), ("acq-x", "acq-amide")):
        for path in sorted(folder.glob(f"*_{old}_*")):  # labels that say the opposite
            path.rename(folder / path.name.replace(old, new))
    found = {t: s.image.name for s in select(root).series for t in s.targets}
    assert found["semisolid"] == "sub-01_ses-01_acq-amide_cest.nii.gz"


def test_sidecars_are_inherited_nearest_first(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    near = root / "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cest.json"
    (root / "acq-mt_cest.json").write_text(json.dumps({"FlipAngle": 1, "Extra": "far"}))
    (root / "acq-amide_cest.json").write_text(json.dumps({"Extra": "other series"}))
    context = root / "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cestcontext.tsv"
    context.rename(root / "acq-mt_cestcontext.tsv")
    mt = next(s for s in select(root).series if "semisolid" in s.targets)
    assert mt.fields["FlipAngle"] == json.loads(near.read_text())["FlipAngle"]
    assert mt.fields["Extra"] == "far"
    assert mt.context == root / "acq-mt_cestcontext.tsv"


def test_another_series_table_is_never_taken(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    (root / "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cestcontext.tsv").unlink()
    mt = next(s for s in select(root).series if "semisolid" in s.targets)
    assert mt.context is None


def test_derivatives_come_before_raw_and_bring_standard_deviations(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    folder = root / "derivatives/masks/sub-01/ses-01/anat"
    image = nib.load(root / "sub-01/ses-01/anat/sub-01_ses-01_T1map.nii.gz")
    for name in ("sub-01_ses-01_T1map", "sub-01_ses-01_stat-std_T1map"):
        nib.save(image, folder / f"{name}.nii.gz")
    t1 = select(root).maps["T1"]
    assert t1.dataset == "masks"
    assert t1.sd.name == "sub-01_ses-01_stat-std_T1map.nii.gz"
    assert select(root).maps["T2"].dataset == "raw"


def test_equally_specific_sidecars_are_an_error(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    for name in ("acq-mt_cest.json", "ses-01_cest.json"):
        (root / name).write_text("{}")
    with pytest.raises(InputError, match="apply to it equally"):
        select(root)


def test_dataset_below_folders_named_like_entities(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "sub-foo" / "ses-2_stat-std" / "bids")
    found = select(root)
    assert len(found.series) == 2
    assert set(found.maps) == {"T1", "T2", "B0", "B1"}


def test_links_to_one_file_count_once(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    (root / "sub-01/ses-01/anat/again").symlink_to(root / "sub-01/ses-01/anat")
    assert select(root).maps["T1"]


def test_two_candidates_are_an_error(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    folder = root / "sub-01/ses-01/anat"
    image = nib.load(folder / "sub-01_ses-01_T1map.nii.gz")
    nib.save(image, folder / "sub-01_ses-01_run-2_T1map.nii.gz")
    with pytest.raises(InputError, match="2 candidates for the T1map"):
        select(root)


def test_only_asked_participants_are_indexed(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    for label in ("011", "1", "bus01"):
        anat = root / f"sub-{label}/anat"
        anat.mkdir(parents=True)
        nib.save(
            nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), anat / f"sub-{label}_T1map.nii.gz"
        )
    for asked in ("01", "bus01"):
        assert make_layout(root, [asked]).get_subjects() == [asked]


def test_labels():
    available = {"01": ("a", "b"), "bus01": (None,)}
    assert choose_sessions(available, (), ()) == [("01", "a"), ("01", "b"), ("bus01", None)]
    assert choose_sessions(available, ("01",), ("b",)) == [("01", "b")]
    with pytest.raises(UsageError, match="There are 01, bus01"):
        choose_sessions(available, ("02",), ())
    with pytest.raises(UsageError, match="has none of the sessions a"):
        choose_sessions(available, ("01", "bus01"), ("a",))
    with pytest.raises(UsageError, match="more than letters and digits"):
        choose_sessions({"a b": (None,)}, (), ())
    with pytest.raises(UsageError, match="There are a, b"):
        choose_sessions(available, ("01",), ("c",))


def test_participants_come_from_folders(dataset, tmp_path):
    assert list_sessions(dataset) == {"01": ("01",)}
    with pytest.raises(UsageError, match="holds no folder sub-"):
        list_sessions(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        list_sessions(tmp_path / "absent")


def test_regions_of_one_name_in_a_dataset_are_an_error(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    folder = root / "derivatives/masks/sub-01/ses-01/anat"
    image = nib.load(folder / "sub-01_ses-01_seg-tissue_dseg.nii.gz")
    nib.save(image, folder / "sub-01_ses-01_space-MNI_label-hippo_mask.nii.gz")
    nib.save(image, folder / "sub-01_ses-01_hemi-L_label-hippo_mask.nii.gz")
    assert "hippo" in {r.name for r in select(root).regions}  # the one in another space is left out
    nib.save(image, folder / "sub-01_ses-01_hemi-R_label-hippo_mask.nii.gz")
    with pytest.raises(InputError, match="is called 'hippo' like"):
        select(root)


def test_valid_voxels_of_estimates_are_no_region(dataset, tmp_path):
    """Each stage of a derivative dataset leaves such a mask."""
    root = sessions.copy(dataset, tmp_path / "bids")
    image = nib.load(next((root / "derivatives/masks").rglob("*_dseg.nii.gz")))
    for stage in ("acq-mt_space-cestref_model-bm2poolmt", "acq-amide_space-cestref_model-bm3pool"):
        name = f"sub-01_ses-01_{stage}_label-valid_desc-psvae_mask.nii.gz"
        nib.save(image, root / "derivatives/masks/sub-01/ses-01/cest" / name)
    assert {r.name for r in select(root).regions} == {"tissue"}


def test_first_dataset_with_a_region_wins(dataset, tmp_path):
    root = sessions.copy(dataset, tmp_path / "bids")
    sessions.copy(root / "derivatives/masks", root / "derivatives/other")
    lesion = root / "derivatives/other/sub-01/ses-01/anat/sub-01_ses-01_label-lesion_mask.nii.gz"
    image = nib.load(
        root / "derivatives/masks/sub-01/ses-01/anat/sub-01_ses-01_seg-tissue_dseg.nii.gz"
    )
    nib.save(image, lesion)
    found = {r.name: r for r in select(root, derivatives=("masks", "other")).regions}
    assert set(found) == {"tissue", "lesion"}
    assert found["tissue"].image.is_relative_to(root / "derivatives/masks")
    assert not found["lesion"].is_dseg
