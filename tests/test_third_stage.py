"""A stage nobody programmed: rNOE from the documentation's YAML, generated and on a real mouse."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import sessions
import yaml

from cestprep.bids.demo import DemoOptions, write_demo
from cestprep.data import load_recipe
from cestprep.inference.recipe import Recipe

DOCUMENT = Path(__file__).resolve().parents[1] / "docs/recipes.rst"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """File of ``mouse-7t`` with its MT stage and the one of the documentation."""
    block = DOCUMENT.read_text().split("A third stage")[1].split(".. code-block:: yaml\n")[1]
    raw = load_recipe("mouse-7t")
    stages = [raw["stages"][0], *yaml.safe_load(textwrap.dedent(block))]
    raw = {**raw, "name": "mouse-rnoe", "stages": stages}
    path = tmp_path_factory.mktemp("recipe") / "rnoe.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def values(out, tail):
    path = next(out.rglob(f"*_acq-rnoe_space-cestref_model-bm3pool_{tail}.nii.gz"))
    return nib.load(path).get_fdata()


def checked(out):
    """Validity of the stage, whose sidecar must say what was carried on."""
    sidecar = next(out.rglob("*_acq-rnoe_*param-fnoe_desc-voxelwise_cestmap.json"))
    propagated = json.loads(sidecar.read_text())["Model"]["Propagated"]
    assert {"semisolid.fraction", "semisolid.k_exchange"} <= set(propagated)
    return values(out, "label-valid_desc-voxelwise_mask") > 0


def test_generated(recipe, tmp_path):
    parsed = Recipe.from_mapping(yaml.safe_load(recipe.read_text()))
    demo = DemoOptions(parsed, 298.03, pulsed=False, shape=(9, 9, 1))
    write_demo(tmp_path / "bids", demo)
    done = sessions.run(
        sessions.arguments(tmp_path / "bids", tmp_path / "out", tmp_path / "work",
                           recipe=str(recipe))
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    valid = checked(tmp_path / "out")
    assert valid.sum() > 25
    truth = nib.load(next((tmp_path / "bids").rglob("*param-fnoe_desc-truth_cestmap.nii.gz")))
    flux = values(tmp_path / "out", "param-fnoe_desc-voxelwise_cestmap")
    sd = values(tmp_path / "out", "param-fnoe_stat-std_desc-voxelwise_cestmap")
    away = (flux - truth.get_fdata())[valid] / sd[valid]
    assert np.median(np.abs(away)) < 1.5


@pytest.mark.slow
@pytest.mark.shared_data
def test_mouse(recipe, shared, tmp_path):
    """A fit of the mean signal of these scans has about 0.4 %."""
    done = sessions.run(
        sessions.arguments(shared / "data/mice7t", tmp_path / "out", tmp_path / "work",
                           "--participant-label", "m01", "--session-label", "pre",
                           "--assume-nominal", "B0", "B1", recipe=str(recipe))
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    valid = checked(tmp_path / "out")
    assert valid.sum() > 400
    assert 0.1 < np.median(values(tmp_path / "out", "param-fnoe_desc-voxelwise_cestmap")[valid]) < 1
