"""Sessions of the digital head: valid CEST-BIDS, with a truth that belongs to the images."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pandas as pd
import problems
import pytest

from cestprep.bids import digital
from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.sidecars import metadata
from cestprep.bids.validation import validate
from cestprep.imaging.transforms import framewise_displacement
from cestprep.phantom import scan

SES = "sub-01/ses-01"
CEST = f"{SES}/cest/sub-01_ses-01"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    root = tmp_path_factory.mktemp("digital") / "bids"
    digital.write_session(root, digital.Options(problems.recipe("brain-3t"), seed=3, lesion=True))
    return root


def load(root, name):
    return nib.load(root / f"{name}.nii.gz").get_fdata(dtype=np.float32)


def test_raw_data_and_truth_are_valid(session):
    for root in (session, session / "derivatives/truth"):
        report = validate(root)
        assert report.official
        assert not report.errors


@pytest.mark.parametrize("stage", ["mt", "amide"])
def test_series_are_what_their_table_plays(session, stage):
    image = session / f"{CEST}_acq-{stage}_cest.nii.gz"
    context = session / f"{CEST}_acq-{stage}_cestcontext.tsv"
    protocol = build_protocol(read_context(context), metadata(image, session), image, context)
    (wanted,) = (s for s in problems.recipe("brain-3t").stages if s.name == stage)
    assert protocol == digital.stage_protocol(wanted)


def test_scans_that_map_have_their_times(session):
    for name, key, count in (
        ("SRT1", "SaturationRecoveryTime", 12),
        ("T2PREP", "T2PreparationTime", 11),
    ):
        about = json.loads((session / f"{SES}/anat/sub-01_ses-01_{name}.json").read_text())
        assert (
            len(about[key]) == count == load(session, f"{SES}/anat/sub-01_ses-01_{name}").shape[3]
        )
    table = read_context(session / f"{SES}/fmap/sub-01_ses-01_cestcontext.tsv")
    assert table["volume_type"].tolist() == ["m0scan", *["saturated"] * 24]
    assert load(session, f"{SES}/fmap/sub-01_ses-01_WASABI").shape[3] == 25


def test_truth_belongs_to_the_first_volume(session):
    """White matter and fluid of the truth have the first volume's brightness of theirs."""
    truth = session / "derivatives/truth"
    tissue = f"{SES}/anat/sub-01_ses-01_space-cestref_seg-tissue_dseg"
    labels = load(truth, tissue)
    first = load(session, f"{CEST}_acq-mt_cest")[..., 0]
    names = pd.read_csv(
        truth / f"{SES}/anat/sub-01_ses-01_space-cestref_seg-tissue_dseg.tsv", sep="\t"
    )
    assert names["name"].tolist() == ["WM", "GM", "CSF", "lesion"]
    levels = [np.median(first[labels == value]) for value in names["index"]]
    assert levels[0] < levels[1] < levels[2]
    t1 = load(truth, f"{SES}/anat/sub-01_ses-01_space-cestref_T1map")
    assert np.median(t1[labels == 1]) == pytest.approx(0.95, rel=0.1)
    brain = load(truth, f"{CEST}_space-cestref_desc-brain_mask") > 0
    assert (t1[~brain] == 0).all()
    assert (first[brain] > 300).mean() > 0.95
    fss = load(truth, f"{CEST}_acq-mt_space-cestref_model-bm2poolmt_param-fss_desc-truth_cestmap")
    assert np.median(fss[labels == 1]) == pytest.approx(13.1, rel=0.1)


def test_the_head_moves_within_its_limits(session):
    """Up to 3 mm and degrees in fingerprinting, half in the others, 3 to 7 mm between series."""
    folder = session / "derivatives/truth" / f"{SES}/cest"
    starts = []
    for name, share in (("mt", 1), ("amide", 1), ("wasabi", 0.5), ("srt1", 0.5), ("t2prep", 0.5)):
        table = pd.read_csv(
            folder / f"sub-01_ses-01_acq-{name}_desc-motion_timeseries.tsv", sep="\t"
        ).to_numpy()
        away = np.linalg.norm((table - table[0])[:, 3:], axis=1)
        assert 0.3 * share < np.rad2deg(away.max()) < 3.3 * share
        assert np.nanmax(framewise_displacement(table)) > 0.1
        starts.append(table[0])
    np.testing.assert_allclose(starts[0], 0, atol=1e-9)
    assert all(np.linalg.norm(start[:3]) > 1 for start in starts[1:])


def test_the_same_seed_gives_the_same_session(session, tmp_path):
    options = digital.Options(problems.recipe("brain-3t"), seed=3, lesion=True)
    given = scan.blur(digital.make_subject(options), options.grid), options.grid
    mine, again = (
        next(digital.take(*given, digital.acquisitions(options.recipe)[-1:], 0.01, 3))
        for _ in range(2)
    )
    np.testing.assert_array_equal(mine.data, again.data)
