"""The program end to end on a synthetic session with known truth."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sessions
import yaml

from cestprep.bids.validation import validate
from cestprep.data import load_recipe

CEST = "sub-01/ses-01/cest/sub-01_ses-01"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder of a finished run: bids, out, work."""
    root = tmp_path_factory.mktemp("run")
    sessions.write(root / "bids")
    result = sessions.run(sessions.arguments(root / "bids", root / "out", root / "work"))
    assert result.returncode == 0, result.stderr
    return root


@pytest.fixture(scope="module")
def plain(done):
    """The first stage alone, told twice the true noise and to leave out the SD map of T1."""
    root = done / "plain"
    bids = sessions.copy(done / "bids", root / "bids")
    sessions.sd_of_t1(lambda d: 30 * d)(bids)
    recipe = root / "first.yaml"
    raw = load_recipe("mouse-7t")
    recipe.write_text(yaml.safe_dump({**raw, "stages": raw["stages"][:1]}))
    arguments = sessions.arguments(
        bids, root / "out", root / "work", "--noise-sd", "mt=20", "--no-propagate", recipe=recipe
    )
    result = sessions.run(list(map(str, arguments)))
    assert result.returncode == 0, result.stderr
    return root


def again(done, *extra):
    arguments = sessions.arguments(done / "bids", done / "out", done / "work", *extra)
    result = sessions.run(arguments)
    return result, sessions.status(done / "out")


def load(done, name):
    return nib.load(done / "out" / f"{CEST}_{name}.nii.gz").get_fdata()


def estimated(done, parameter, stat=""):
    acq, model = ("mt", "bm2poolmt") if parameter in ("fss", "kssw") else ("amide", "bm3pool")
    return load(
        done,
        f"acq-{acq}_space-cestref_model-{model}_param-{parameter}{stat}_desc-voxelwise_cestmap",
    )


@pytest.mark.parametrize("parameter", ["fss", "kssw", "fs", "ksw"])
def test_estimates_cover_the_truth(done, parameter):
    model = "bm2poolmt" if parameter in ("fss", "kssw") else "bm3pool"
    acq = "mt" if model == "bm2poolmt" else "amide"
    stem = f"{CEST}_acq-{acq}_space-cestref_model-{model}"
    folder = done / "bids/derivatives/truth"
    truth = nib.load(folder / f"{stem}_param-{parameter}_desc-truth_cestmap.nii.gz").get_fdata()
    tissue = nib.load(
        done / "bids/derivatives/masks/sub-01/ses-01/anat/sub-01_ses-01_seg-tissue_dseg.nii.gz"
    ).get_fdata()
    valid = load(done, f"acq-{acq}_space-cestref_model-{model}_label-valid_desc-voxelwise_mask")
    inside = (valid > 0) & (tissue > 1)  # CSF has next to nothing to estimate
    assert inside.sum() > 20
    z = (estimated(done, parameter) - truth)[inside] / estimated(done, parameter, "_stat-std")[
        inside
    ]
    assert np.mean(np.abs(z) < 3) > 0.95
    assert abs(np.median(z)) < 0.5
    low, high = (estimated(done, parameter, f"_stat-{s}") for s in ("cilower", "ciupper"))
    covered = (low <= truth) & (truth <= high)
    assert 0.8 < covered[inside].mean() <= 1


def test_every_image_has_a_sidecar_with_units_and_no_nan(done):
    images = sorted((done / "out").rglob("*.nii.gz"))
    started_from = 2 + 5 + 1  # series, maps with a magnitude for B0, and the mask
    assert len(images) == 2 * (4 * 2 + 7) + 1 + started_from
    for path in images:
        assert np.isfinite(nib.load(path).get_fdata()).all(), path
        fields = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        if path.name.endswith("_cestmap.nii.gz"):
            assert fields["Units"]
            assert fields["Model"]["Solver"] == "reduced"
            assert fields["Model"]["MTConvention"] == "z"
            assert fields["Model"]["NoiseSource"] == "residual"
            assert "NoiseSD" not in fields["Model"]
            stage_one = ["semisolid.fraction", "semisolid.k_exchange"]
            assert fields["Model"]["Propagated"] == ([] if "acq-mt_" in path.name else stage_one)
            assert fields["Estimator"]["Name"] == "voxelwise"
            assert fields["SkullStripped"] is True


def sidecar(root, name):
    return json.loads(
        next((root / "out").rglob(f"*{name}_desc-voxelwise_cestmap.json")).read_text()
    )


def test_given_noise_and_no_propagation_are_on_record(plain):
    model = sidecar(plain, "param-fss")["Model"]
    assert (model["NoiseSource"], model["Propagated"]) == ("option", [])
    assert model["NoiseSD"] == 20
    assert model["ResidualSD"] == pytest.approx(10, rel=0.15)  # the SD of the noise that is there
    page = (plain / "out/sub-01_ses-01.html").read_text()
    assert "20 in arbitrary units of the series, was given by the option --noise-sd" in page
    assert "(--no-propagate), so intervals are too narrow" in page
    assert "own residual" not in page


def test_noise_and_propagation_reach_the_fit(done, plain):
    """The error of 30 % in T1, if it entered, would double the SD again."""
    ours, theirs = (estimated(root, "fss", "_stat-std") for root in (plain, done))
    both = (ours > 0) & (theirs > 0)
    assert both.sum() > 20
    assert np.median(ours[both] / theirs[both]) == pytest.approx(2, rel=0.15)
    np.testing.assert_allclose(estimated(plain, "fss"), estimated(done, "fss"), rtol=1e-3)


def test_meaning_of_misfit_depends_on_the_noise(done, plain):
    residual, given = (sidecar(root, "stat-validity")["Levels"] for root in (done, plain))
    assert residual["4"].startswith("high NRMSE")
    assert given["4"].startswith("misfit: noise and errors of the maps explain so large")
    page = (done / "out/sub-01_ses-01.html").read_text()
    assert "own residual, so a p-value of misfit is n/a; voxels are flagged by high NRMSE" in page


def test_sources_resolve(done):
    links = json.loads((done / "out/dataset_description.json").read_text())["DatasetLinks"]
    links[""] = str(done / "out")
    sources = sidecar(done, "param-fs")["Sources"]
    assert len(sources) == 9  # series, mask, T1, T2, B0, B1, two MT maps and their covariance
    for uri in sources:
        name, _, relative = uri.removeprefix("bids:").partition(":")
        assert (done / links[name].removeprefix("file://") / relative).exists(), uri


def test_covariance_matches_standard_deviations(done):
    stem = "acq-mt_space-cestref_model-bm2poolmt"
    cov = load(done, f"{stem}_stat-cov_desc-voxelwise_cestmap")
    for volume, parameter in ((0, "fss"), (2, "kssw")):
        sd = estimated(done, parameter, "_stat-std")
        np.testing.assert_allclose(cov[..., volume], sd**2, rtol=1e-4, atol=1e-12)
    valid = load(done, f"{stem}_label-valid_desc-voxelwise_mask") > 0
    corr = load(done, f"{stem}_stat-corr_desc-voxelwise_cestmap")[valid]
    assert (np.abs(corr) <= 1).all()
    assert np.median(corr) < -0.3  # fraction and rate trade against each other


def test_outside_the_mask(done):
    codes = load(done, "acq-mt_space-cestref_model-bm2poolmt_stat-validity_desc-voxelwise_cestmap")
    mask = nib.load(done / f"bids/derivatives/masks/{CEST}_desc-brain_mask.nii.gz").get_fdata() > 0
    assert (codes[~mask] == 1).all()
    assert (codes[mask] != 1).all()
    assert (estimated(done, "fss")[~mask] == 0).all()


def test_quality_table(done):
    table = pd.read_csv(done / "out" / f"{CEST}_acq-mt_qc.tsv", sep="\t")
    assert list(table["parameter"]) == ["fss", "kssw"]
    assert set(table["method"]) == {"voxelwise"}
    assert (table["n_valid"] <= table["n_mask"]).all()
    assert 0 < table["median_nrmse_percent"].iloc[0] < 5


def test_report_is_one_file_without_network(done):
    page = (done / "out/sub-01_ses-01.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", page)
    assert "url(" not in page
    assert "@import" not in page
    assert page.count("data:image/png;base64,") >= 8
    for word in ("fss", "kssw", "percent", "1/s", "Validity", "SaturationTarget semisolid"):
        assert word in page


def test_same_command_runs_nothing(done):
    before = {p: p.stat().st_mtime_ns for p in (done / "out").rglob("*.nii.gz")}
    result, status = again(done)
    assert result.returncode == 0
    assert [s["nodes_run"] for s in status["sessions"]] == [0]
    assert status["sessions"][0]["nodes_cached"] == 8
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_other_nprocs_runs_nothing(done):
    _, status = again(done, "--nprocs", "1")
    assert [s["nodes_run"] for s in status["sessions"]] == [0]


def test_deleted_map_is_written_again_and_nothing_refitted(done):
    path = next((done / "out").rglob("*param-fss_desc-voxelwise_cestmap.nii.gz"))
    content = nib.load(path).get_fdata()
    path.unlink()
    _, status = again(done)
    assert status["sessions"][0]["nodes_run"] == 1
    np.testing.assert_array_equal(nib.load(path).get_fdata(), content)


def test_deleted_sidecar_is_written_again(done):
    path = next((done / "out").rglob("*param-fss_desc-voxelwise_cestmap.json"))
    path.unlink()
    _, status = again(done)
    assert status["sessions"][0]["nodes_run"] == 1
    assert json.loads(path.read_text())["Units"] == "percent"


def without_b1_definition(done):
    """Run with a broken sidecar, then put it right."""
    sidecar = done / "bids" / f"{CEST}_acq-mt_cest.json"
    whole = sidecar.read_text()
    sessions.edit_json(sidecar, SaturationB1Definition=None)
    try:
        return again(done)
    finally:
        sidecar.write_text(whole)


def test_bad_input_fails_the_session_in_words_and_leaves_earlier_results(done):
    page = (done / "out/sub-01_ses-01.html").read_text()
    result, status = without_b1_definition(done)
    assert result.returncode == status["exit_code"] == 65
    assert status["sessions"][0]["status"] == "bad input"
    assert "SaturationB1Definition is missing" in status["sessions"][0]["errors"][0]
    assert "SaturationB1Definition is missing" in result.stderr
    assert "Traceback" not in result.stderr
    assert (done / "out/sub-01_ses-01.html").read_text() == page


def test_bad_input_of_a_new_session_gets_an_error_page_which_success_replaces(done):
    page = done / "out/sub-01_ses-01.html"
    page.unlink()
    without_b1_definition(done)
    assert "Not processed" in page.read_text()
    assert "SaturationB1Definition is missing" in page.read_text()
    result, status = again(done)
    assert result.returncode == 0
    assert status["sessions"][0]["nodes_run"] == 1  # the report
    assert "Not processed" not in page.read_text()


def test_region_table(done):
    path = done / "out" / f"{CEST}_acq-mt_seg-tissue_model-bm2poolmt_desc-voxelwise_cestmap.tsv"
    table = pd.read_csv(path, sep="\t")
    assert list(table["name"].unique()) == ["CSF", "GM", "WM"]
    assert set(table["unit"]) == {"percent", "1/s"}
    described = json.loads(path.with_suffix(".json").read_text())
    assert set(described) == set(table.columns)
    fss = table[table["parameter"] == "fss"].set_index("name")
    assert fss.loc["WM", "mean"] == pytest.approx(13.1, rel=0.15)
    assert fss.loc["GM", "mean"] == pytest.approx(6.3, rel=0.15)
    maps = estimated(done, "fss")
    tissue = nib.load(
        done / "bids/derivatives/masks/sub-01/ses-01/anat/sub-01_ses-01_seg-tissue_dseg.nii.gz"
    ).get_fdata()
    valid = load(done, "acq-mt_space-cestref_model-bm2poolmt_label-valid_desc-voxelwise_mask") > 0
    assert fss.loc["GM", "n_voxels"] == (tissue == 2).sum()
    assert fss.loc["GM", "median"] == pytest.approx(
        np.median(maps[(tissue == 2) & valid]), rel=1e-4
    )


def test_settings_are_kept_and_reproduce_the_run(done):
    newest = max(done.glob("out/logs/*/cestprep.toml"), key=lambda p: p.stat().st_mtime_ns)
    arguments = [str(done / "bids"), str(done / "out"), "participant", "--config-file", str(newest)]
    result = sessions.run(arguments)
    assert result.returncode == 0
    assert sessions.status(done / "out")["sessions"][0]["nodes_run"] == 0


def test_report_shows_both_normalisations(done):
    page = (done / "out/sub-01_ses-01.html").read_text()
    section = page.split('id="normalisation"')[1].split("</section>")[0]
    assert section.count("(used)") == 4
    rows = re.findall(
        r"<td>(\w+)</td><td class=\"n\">([\d.]+) \(used\)</td><td class=\"n\">([\d.]+)", section
    )
    assert [name for name, _, _ in rows] == ["fss", "kssw", "fs", "ksw"]
    for _, unit_norm, m0 in rows:  # simulated data without misfit: the choice matters little
        assert float(m0) == pytest.approx(float(unit_norm), rel=0.2)
        assert m0 != unit_norm


def test_everything_written_is_valid(done):
    """By the extended schema and our cross-checks, and by the released standard."""
    for root in (done / "bids", done / "out", *(done / "bids/derivatives").iterdir()):
        for stock in (False, True):
            errors = validate(root, stock=stock).errors
            assert not errors, [str(error)[:300] for error in errors]
