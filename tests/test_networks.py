"""Networks through the whole program: trained, kept, reused, refused, trained on a cohort.

The quickest problem: one stage, few volumes, few steps; quality is tested elsewhere.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sessions
import yaml

from cestprep.bids.demo import DemoOptions, write_demo
from cestprep.bids.validation import validate
from cestprep.data import load_recipe
from cestprep.inference.recipe import Recipe

QUICK = ("--method-option", "simulated=2000", "steps=200", "own_steps=40", "batch=64")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Two subjects of one stage, run by psvae; folders and the log."""
    root = tmp_path_factory.mktemp("networks")
    raw = load_recipe("mouse-7t")
    raw = {**raw, "name": "mt-only", "stages": raw["stages"][:1]}
    (root / "mt.yaml").write_text(yaml.safe_dump(raw))
    recipe = Recipe.from_mapping(raw)
    for i, subject in enumerate(("01", "02")):
        demo = DemoOptions(recipe, 298.03, pulsed=False, shape=(9, 9, 1), seed=i)
        write_demo(root / "bids", demo, subject)
    done = run(root, "fit", *QUICK)
    assert done.returncode == 0, done.stderr
    return root


def run(root, out, *extra):
    return sessions.run(
        sessions.arguments(root / "bids", root / out, root / f"work-{out}", *extra,
                           recipe=str(root / "mt.yaml"), method="psvae")
    )  # fmt: skip


def tool(*arguments):
    command = [sys.executable, "-m", "cestprep.cli.tools", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def fss(root, out, subject):
    path = next((root / out / f"sub-{subject}").rglob("*param-fss_desc-psvae_cestmap.nii.gz"))
    return nib.load(path).get_fdata()


def cest(root, out, subject):
    return next((root / out / f"sub-{subject}").rglob("cest"))


def test_a_fit_leaves_its_network_and_what_it_started_from(cohort):
    for subject in ("01", "02"):
        folder = cest(cohort, "fit", subject)
        record = json.loads(next(folder.glob("*_network.json")).read_text())
        assert record["SubjectsSeen"] == [subject]
        parts = {row[0] for row in record["TrainingCurve"]["Rows"]}
        assert (record["Seed"], record["Options"]["own_steps"]) == (0, 40)
        assert parts == {"prior", "own voxels"}
        assert next(folder.glob("*_network.safetensors")).stat().st_size > 1e5
        series = nib.load(next(folder.glob("*_desc-preproc_cest.nii.gz"))).get_fdata()
        raw = nib.load(next((cohort / "bids" / f"sub-{subject}").rglob("*acq-mt_cest.nii.gz")))
        np.testing.assert_array_equal(series, raw.get_fdata(dtype=np.float32))
    assert not list((cohort / "work-fit/training").glob("*"))


def test_transfer_answers_and_says_from_whom(cohort):
    source = cest(cohort, "fit", "01")
    done = run(cohort, "transfer", "--checkpoint", str(source), "--participant-label", "02")
    assert done.returncode == 0, done.stderr
    assert "training" not in done.stderr
    sidecar = next((cohort / "transfer").rglob("*param-fss_desc-psvae_cestmap.json"))
    fields = json.loads(sidecar.read_text())
    estimator = fields["Estimator"]
    assert "posterior mean, by the network" in fields["Description"]
    assert estimator["Mode"] == "transfer"
    assert estimator["Options"]["refine"] is False
    assert estimator["Seed"] == 0
    assert estimator["Network"]["SubjectsSeen"] == ["01"]
    refit, reused = (fss(cohort, out, "02") for out in ("fit", "transfer"))
    both = (refit != 0) & (reused != 0)
    assert both.sum() > 30
    assert np.corrcoef(refit[both], reused[both])[0, 1] > 0.8  # of fluid, grey and white matter


def test_refinement_brings_networks_together(cohort):
    """Two refined answers differ less than their SD whatever network began."""
    source = cest(cohort, "fit", "01")
    done = run(cohort, "refined", "--checkpoint", str(source), "--participant-label", "02",
               "--mode", "transfer+refine")  # fmt: skip
    assert done.returncode == 0, done.stderr
    sd = next((cohort / "fit/sub-02").rglob("*param-fss_stat-std_desc-psvae_cestmap.nii.gz"))
    sd = nib.load(sd).get_fdata()
    refit, reused = (fss(cohort, out, "02") for out in ("fit", "refined"))
    away = np.abs(refit - reused)[sd > 0] / sd[sd > 0]
    assert np.median(away) < 0.05


def test_another_recipe_is_refused_with_the_difference(cohort):
    raw = yaml.safe_load((cohort / "mt.yaml").read_text())
    raw["stages"][0]["free"]["fss"]["range"] = [0, 25]
    (cohort / "other.yaml").write_text(yaml.safe_dump(raw))
    source = cest(cohort, "fit", "01")
    done = sessions.run(
        sessions.arguments(cohort / "bids", cohort / "refused", cohort / "work-refused",
                           "--checkpoint", str(source), recipe=str(cohort / "other.yaml"),
                           method="psvae")
    )  # fmt: skip
    assert done.returncode == 65
    assert "0 to 30 percent in the checkpoint" in done.stderr
    assert "0 to 25 percent here" in done.stderr


def test_damaged_weights_are_refused(cohort, tmp_path):
    shutil.copytree(cest(cohort, "fit", "01"), tmp_path / "copy")
    weights = next((tmp_path / "copy").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run(cohort, "damaged", "--checkpoint", str(tmp_path / "copy"), "--dry-run")
    assert done.returncode == 2
    assert f"{weights}: is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    weights.unlink()
    done = run(cohort, "damaged", "--checkpoint", str(tmp_path / "copy"), "--dry-run")
    assert done.returncode == 2
    assert f"missing: {weights.name}" in done.stderr


def test_weights_of_another_training_are_refused(cohort, tmp_path):
    shutil.copytree(cest(cohort, "fit", "01"), tmp_path / "copy")
    other = next(cest(cohort, "fit", "02").glob("*.safetensors"))
    shutil.copyfile(other, next((tmp_path / "copy").glob("*.safetensors")))
    done = run(cohort, "mixed", "--checkpoint", str(tmp_path / "copy"), "--dry-run")
    assert done.returncode == 2
    assert "not the one its record was written with" in done.stderr


def test_answers_of_a_network_that_saw_the_participant_are_marked(cohort):
    source = str(cest(cohort, "fit", "01"))
    texts = {}
    for subject in ("01", "02"):
        done = run(cohort, "seen", "--checkpoint", source, "--participant-label", subject,
                   "--dry-run")  # fmt: skip
        assert done.returncode == 0
        assert "method psvae, mode transfer" in done.stdout
        texts[subject] = done.stdout
    assert "no held-out answers" in texts["01"]
    assert "no held-out answers" not in texts["02"]


USAGE = {
    "no folder": (("--checkpoint", "missing"), "is not a folder"),
    "no network": (("--method", "grid", "--checkpoint", "."), "method grid has no network"),
    "mode alone": (("--mode", "transfer"), "needs trained networks"),
    "fit of one": (("--mode", "fit", "--checkpoint", "."), "trains networks"),
    "unknown option": (("--method-option", "stepz=3"), "no such option"),
    "wrong value": (("--method-option", "steps=many"), "expected a whole number"),
    "no number": (
        ("--method", "nbmf", "--method-option", "parameter_noise=inf"),
        "a finite number",
    ),
    "more than memory holds": (
        ("--method-option", "simulated=100000000000"),
        "expected 1 to 10000000",
    ),
    "too few steps": (("--method-option", "steps=1"), "steps=1: expected 40 to 10000000"),
    "nothing to train": (("--checkpoint", ".", "--method-option", "steps=99"), "no effect"),
    "refined by mode": (("--checkpoint", ".", "--method-option", "refine=true"), "--mode transfer"),
    "paper refines nothing": (
        ("--checkpoint", ".", "--mode", "transfer+refine", "--method-option", "paper=true"),
        "refines nothing in paper mode",
    ),
    "no path": (("--checkpoint", ""), "the path is empty"),
    "negative seed": (("--random-seed", "-1"), "whole number from 0"),
    "endless noise": (("--noise-sd", "1e300"), "is no standard deviation"),
    "no pair": (("--method-option", "steps"), "NAME=VALUE"),
}


@pytest.mark.parametrize("case", USAGE)
def test_faulty_options_say_how_to_mend_them(cohort, case):
    extra, expected = USAGE[case]
    done = run(cohort, "usage", *extra, "--dry-run")
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_leave_one_out_from_derivatives_alone(cohort, tmp_path):
    """Without the raw dataset; each participant gets the network that has not seen it."""
    out = tmp_path / "out"
    shutil.copytree(cohort / "fit", out)
    done = tool("train", out, "--leave-one-out", "--recipe", cohort / "mt.yaml", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "without sub-01" in done.stderr
    assert sorted(p.name for p in (out / "networks").iterdir()) == ["leave-one-out"]
    seen = {}
    for path in (out / "networks/leave-one-out").rglob("*_network.json"):
        record = json.loads(path.read_text())
        seen[path.parent.name] = set(record["SubjectsSeen"])
    everybody = {"01", "02"}
    assert sorted(map(sorted, seen.values())) == [["01"], ["02"]]
    done = run(cohort, "loo", "--checkpoint", str(out / "networks/leave-one-out"))
    assert done.returncode == 0, done.stderr
    for subject in everybody:
        sidecar = next((cohort / f"loo/sub-{subject}").rglob("*param-fss_desc-psvae_cestmap.json"))
        network = json.loads(sidecar.read_text())["Estimator"]["Network"]
        assert set(network["SubjectsSeen"]) == everybody - {subject}


def test_sessions_of_two_protocols_are_not_trained_together(cohort, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(cohort / "fit", out)
    table = next((out / "sub-02").rglob("*_cestcontext.tsv"))
    rows = pd.read_csv(table, sep="\t", keep_default_na=False)
    rows.loc[rows.index[-1], "recovery_time"] += 0.5
    rows.to_csv(table, sep="\t", index=False)
    done = tool("train", out, "--recipe", cohort / "mt.yaml", *QUICK)
    assert done.returncode == 2
    assert "differs from that of sub-01" in done.stderr
    assert "Traceback" not in done.stderr


TRAINING = {
    "seed": (("--random-seed", "99999999999"), "whole number from 0"),
    "no training": (("--method", "grid"), "is no method with a network"),
    "idle": (("--method-option", "paper=true", "batch=9"), "batch: no effect"),
    "recipe": (("--recipe", "twice.yaml"), "key 'name' appears twice"),
    "date": (("--recipe", "date.yaml"), "not valid YAML"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_training_refuses_in_words(cohort, case):
    (cohort / "twice.yaml").write_text("name: a\nname: b\n")
    (cohort / "date.yaml").write_text("name: 2026-13-45\n")
    extra, expected = TRAINING[case]
    extra = [cohort / x if str(x).endswith(".yaml") else x for x in extra]
    done = tool("train", cohort / "fit", *extra)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_training_needs_an_output_folder_with_room(cohort, tmp_path):
    done = tool("train", tmp_path)
    assert (done.returncode, "no output folder" in done.stderr) == (2, True)
    out = tmp_path / "out"
    shutil.copytree(cohort / "fit", out)
    (out / "networks").write_text("")
    done = tool("train", out, "--recipe", cohort / "mt.yaml")
    assert (done.returncode, "is a file" in done.stderr) == (2, True)


def test_networks_and_maps_are_valid(cohort):
    """Also of fitted networks, which the other methods do not leave."""
    errors = validate(cohort / "fit").errors
    assert not errors, [str(error)[:300] for error in errors]
