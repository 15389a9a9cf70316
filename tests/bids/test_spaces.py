"""Standard spaces: what is asked for, and maps written in them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cestprep.bids.spaces import brought_files, in_space
from cestprep.bids.templates import Space, find_spaces
from cestprep.data.template import SPACE, brain_template
from cestprep.errors import UsageError


def test_resolutions_have_a_default_and_the_reference_is_no_template():
    found = find_spaces(["cestref", SPACE, f"{SPACE}:res-1", SPACE])
    assert found == (Space(SPACE, 2), Space(SPACE, 1))


@pytest.mark.parametrize("text", ["MNI152:res-7", "a b", f"{SPACE}:res-", f"{SPACE}:2", ":res-1"])
def test_what_is_no_space_is_refused_with_the_grammar(text):
    with pytest.raises(UsageError, match=r"is no space.*NAME\[:res-1 or res-2\]"):
        find_spaces([text])


def test_a_template_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"label-WM_probseg.*api\.get\('MNI152NLin6Asym'"):
        find_spaces(["MNI152NLin6Asym"])


def test_templates_of_templateflow_are_found_unless_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path))
    folder = tmp_path / "tpl-Own"
    folder.mkdir()
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    for part in ("label-WM_probseg", "label-GM_probseg", "desc-brain_mask"):
        image = nib.Nifti1Image(np.ones((7, 8, 9), np.float32), affine)
        nib.save(image, folder / f"tpl-Own_res-01_{part}.nii.gz")
    (space,) = find_spaces(["Own:res-2"])
    assert len(space.files) == 3
    grid = space.grid(space.template())
    assert grid.shape == (4, 4, 5)
    np.testing.assert_allclose(np.diag(grid.affine), [2, 2, 2, 1])
    space.files[2].write_bytes(b"")  # as TemplateFlow leaves what it has not fetched
    with pytest.raises(UsageError, match="desc-brain_mask"):
        find_spaces(["Own:res-2"])


def test_the_packaged_template_has_its_own_field_of_view():
    whole = brain_template()
    fine, coarse = (Space(SPACE, r).grid(whole) for r in (1, 2))
    assert np.abs(2 * np.array(coarse.shape) - fine.shape).max() <= 1
    np.testing.assert_allclose(coarse.affine[:3, 3], fine.affine[:3, 3])


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ("sub-1_acq-mt_space-cestref_model-a_param-fss_desc-x_cestmap.nii.gz",
         "sub-1_acq-mt_space-Own_res-2_model-a_param-fss_desc-x_cestmap.nii.gz"),
        ("sub-1_space-cestref_seg-tissue_label-WM_probseg.nii.gz",
         "sub-1_space-Own_seg-tissue_res-2_label-WM_probseg.nii.gz"),
    ],
)  # fmt: skip
def test_names_in_a_space(native, expected):
    assert in_space(Path(native), Space("Own", 2)).name == expected


def test_only_maps_are_brought(tmp_path):
    names = {
        "sub-1_space-cestref_T1map.nii.gz": (4, 4, 4),
        "sub-1_space-cestref_desc-preproc_cest.nii.gz": (4, 4, 4, 2),
        "sub-1_space-cestref_stat-cov_cestmap.nii.gz": (4, 4, 4, 3),
        "sub-1_T1w.nii.gz": (4, 4, 4),
    }
    for name, shape in names.items():
        nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / name)
    (tmp_path / "sub-1_space-cestref_T1map.json").write_text("{}")
    found = brought_files([str(p) for p in sorted(tmp_path.iterdir())])
    assert [p.name for p in found] == ["sub-1_space-cestref_T1map.nii.gz"]
