"""Real mice at 7 T; ../shared/data/mice7t is not part of the repository.

Generated look-alikes: tests/test_run.py (same recipe and options, whole program) and
tests/inference/test_voxelwise.py (independent fit).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import independent_fit
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sessions
from processes import descendants, resident_bytes

pytestmark = pytest.mark.shared_data
FREQUENCY = 298.035
STAGES = {"mt": ("bm2poolmt", ("fss", "kssw")), "amide": ("bm3pool", ("fs", "ksw"))}


@pytest.fixture(scope="module")
def data(shared):
    return shared / "data/mice7t"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The whole program on two mice, with its time and memory."""
    root = tmp_path_factory.mktemp("mice")
    arguments = sessions.arguments(data, root / "out", root / "work", "--participant-label", "m01",
                                   "m02", "--assume-nominal", "B0", "B1")  # fmt: skip
    started, peak = time.monotonic(), 0
    log = root / "stderr.txt"
    with log.open("w") as handle:
        process = subprocess.Popen([sys.executable, "-m", "cestprep", *arguments], stderr=handle)
        while process.poll() is None:
            tree = [process.pid, *descendants(process.pid)]
            peak = max(peak, sum(map(resident_bytes, tree)))
            time.sleep(0.5)
    assert process.returncode == 0, log.read_text()
    seconds = time.monotonic() - started
    return {"out": root / "out", "seconds": seconds, "peak": peak, "arguments": arguments}


def values(run, sub, ses, stage, tail, suffix="cestmap"):
    model, _ = STAGES[stage]
    folder = run["out"] / f"sub-{sub}/ses-{ses}/cest"
    stem = f"sub-{sub}_ses-{ses}_acq-{stage}_space-cestref_model-{model}"
    return nib.load(folder / f"{stem}_{tail}desc-voxelwise_{suffix}.nii.gz").get_fdata()


def mask_of(data, sub, ses):
    stem = f"sub-{sub}/ses-{ses}/cest/sub-{sub}_ses-{ses}_desc-brain_mask.nii.gz"
    return nib.load(data / "derivatives/masks" / stem).get_fdata() > 0


def raw(data, sub, ses, name):
    return nib.load(
        data / f"sub-{sub}/ses-{ses}" / f"{name[0]}/sub-{sub}_ses-{ses}_{name[1]}.nii.gz"
    )


@pytest.mark.parametrize(
    ("ses", "stage", "limit"),
    [("pre", "mt", 2.60), ("post", "mt", 2.40), ("pre", "amide", 2.70), ("post", "amide", 2.40)],
)
def test_median_nrmse_of_m01(run, data, ses, stage, limit):
    nrmse = values(run, "m01", ses, stage, "stat-nrmse_")[mask_of(data, "m01", ses)]
    assert 0.5 < np.median(nrmse) <= limit


@pytest.mark.parametrize("ses", ["pre", "post"])
def test_medians_of_m01(run, data, ses):
    mask = mask_of(data, "m01", ses)
    assert 7.5 <= np.median(values(run, "m01", ses, "mt", "param-fss_")[mask]) <= 8.2
    assert 32 <= np.median(values(run, "m01", ses, "mt", "param-kssw_")[mask]) <= 37


def rows_of(data, stage):
    table = pd.read_csv(data / f"acq-{stage}_cestcontext.tsv", sep="\t", na_values="n/a")
    for row in table.itertuples():
        off = row.saturation_b1 == 0
        saturation = (row.saturation_offset, row.saturation_b1, row.saturation_duration)
        yield row.recovery_time, None if off else saturation


@pytest.mark.parametrize("ses", ["pre", "post"])
@pytest.mark.parametrize("stage", STAGES)
def test_agrees_with_independent_scipy_fit(run, data, ses, stage):
    """25 random voxels of each session and stage."""
    mask = mask_of(data, "m01", ses)
    valid = values(run, "m01", ses, stage, "label-valid_", "mask")[mask] > 0
    chosen = np.random.default_rng(7).choice(np.flatnonzero(valid), 25, replace=False)
    signals = raw(data, "m01", ses, ("cest", f"acq-{stage}_cest")).get_fdata()[mask]
    t1, t2 = (raw(data, "m01", ses, ("anat", f"{q}map")).get_fdata()[mask] for q in ("T1", "T2"))
    nrmse = values(run, "m01", ses, stage, "stat-nrmse_")[mask]
    fss, kssw = (values(run, "m01", ses, "mt", f"param-{p}_")[mask] for p in STAGES["mt"][1])
    rows = list(rows_of(data, stage))
    bounds = {"mt": [(0, 0.30), (0, 150)], "amide": [(0, 0.012), (0, 1000)]}[stage]
    for v in chosen:

        def pools(theta, v=v):
            mt = theta if stage == "mt" else (fss[v] / 100, kssw[v])
            semisolid = {"kind": "mt", "f": mt[0], "k": mt[1], "t2": 40e-6, "shift": 0.0}
            amide = {"kind": "cest", "f": theta[0], "k": theta[1], "t2": 0.04, "shift": 3.5}
            return [semisolid] if stage == "mt" else [amide, semisolid]

        water = {"t1": t1[v], "t2": t2[v], "b0": 0.0, "b1": 1.0}
        starts = [(0.1, 0.5), (0.3, 0.2), (0.6, 0.7)]
        _, best = independent_fit.fit(rows, FREQUENCY, pools, water, signals[v], bounds, starts)
        assert nrmse[v] / 100 == pytest.approx(best, rel=5e-3)


def test_voxel_without_t1_is_flagged_not_fitted(run, data):
    mask = mask_of(data, "m02", "post")
    t1 = raw(data, "m02", "post", ("anat", "T1map")).get_fdata()
    missing = mask & (t1 == 0)
    assert missing.sum() == 1
    for stage, (_, parameters) in STAGES.items():
        assert values(run, "m02", "post", stage, "stat-validity_")[missing] == [2]
        assert values(run, "m02", "post", stage, "label-valid_", "mask")[missing] == [0]
        for parameter in parameters:
            assert values(run, "m02", "post", stage, f"param-{parameter}_")[missing] == [0]


def test_no_nan_anywhere(run):
    images = list(run["out"].rglob("*.nii.gz"))
    assert len(images) == 4 * (31 + 5)  # and series, T1, T2 and mask they start from
    for path in images:
        assert np.isfinite(nib.load(path).get_fdata()).all(), path


def test_time_and_memory(run):
    """Four sessions, two at a time, from a cold cache: three minutes each, 4 GB in all."""
    assert run["seconds"] < 4 * 180
    assert 0.5 < run["peak"] / 2**30 < 4


def test_rerun_executes_nothing(run):
    result = sessions.run(run["arguments"])
    assert result.returncode == 0
    status = sessions.status(run["out"])
    assert [(s["nodes_run"], s["nodes_cached"]) for s in status["sessions"]] == [(0, 8)] * 4


def test_report_names_what_was_assumed(run):
    page = (run["out"] / "sub-m01_ses-pre.html").read_text()
    assert "--assume-nominal B0" in page
    assert "acq-rnoe_cest.nii.gz" in page  # not used, and says so
    fields = json.loads(next(run["out"].rglob("sub-m01*param-fss_desc*.json")).read_text())
    assert fields["Model"]["AssumedNominal"] == ["B0", "B1"]
