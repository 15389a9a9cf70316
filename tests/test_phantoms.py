"""L-arginine phantoms with published dictionary maps; ../shared/data is not in the repository.

Generated look-alike: `test_generated_vials` fits the same recipe to simulated vials.
"""

from __future__ import annotations

import copy
from pathlib import Path

import nibabel as nib
import numpy as np
import problems
import pytest
import sessions
import yaml
from scipy import ndimage

from cestprep.data import load_recipe
from cestprep.inference.methods.voxelwise import estimate
from cestprep.inference.problem import InverseProblem
from cestprep.inference.recipe import Recipe
from cestprep.phantom.protocols import fingerprinting_protocol

MM_PER_FRACTION = 110e3 / 3  # three exchanging protons per molecule, 110 M water protons


def quantify(
    shared: Path,
    name: str,
    recipe: str,
    out: Path,
    method: str = "voxelwise",
    timeout_s: float = 900,
) -> dict[str, np.ndarray]:
    """Run the program on a phantom; our and the published maps, fractions and 1/s."""
    root = shared / "data" / name
    published = root / "derivatives/published"
    arguments = [str(root), str(out / "out"), "participant", "--recipe", recipe,
                 "--method", method, "--assume-nominal", "B0", "B1", "--derivatives",
                 f"published={published}", "-w", str(out / "work")]  # fmt: skip
    result = sessions.run(arguments, timeout_s)
    assert result.returncode == 0, result.stderr
    ours = f"sub-{name}_acq-larg_space-cestref_model-bm2poolcest_param-"
    theirs = f"sub-{name}_acq-larg_desc-dictmatch_param-"
    load = {
        "f": (out / "out", f"{ours}fs_desc-{method}_cestmap", 0.01),
        "k": (out / "out", f"{ours}ksw_desc-{method}_cestmap", 1.0),
        "valid": (out / "out", f"{ours[:-7]}_label-valid_desc-{method}_mask", 1.0),
        "f_published": (published, f"{theirs}fs_cestmap", 1.0),
        "k_published": (published, f"{theirs}ksw_cestmap", 1.0),
        "mask": (published, f"sub-{name}_desc-vials_mask", 1.0),
    }
    return {
        key: nib.load(folder / f"sub-{name}/cest/{stem}.nii.gz").get_fdata() * factor
        for key, (folder, stem, factor) in load.items()
    }


def vials(mask):
    """Voxels of each vial by connected components."""
    labels, count = ndimage.label(mask > 0)
    return [labels == i for i in range(1, count + 1)]


@pytest.fixture(scope="module")
def larg9t4(shared, tmp_path_factory):
    return quantify(shared, "larg9t4", "larg-9t4", tmp_path_factory.mktemp("larg9t4"))


@pytest.fixture(scope="module")
def larg3t(shared, tmp_path_factory):
    return quantify(shared, "larg3t", "larg-3t", tmp_path_factory.mktemp("larg3t"))


@pytest.mark.shared_data
class TestNineTesla:
    def test_vials_agree_with_the_published_dictionary(self, larg9t4):
        found = vials(larg9t4["mask"])
        assert len(found) == 3
        for vial in found:
            inside = vial & (larg9t4["valid"] > 0)
            assert inside.sum() > 0.95 * vial.sum()
            f, k = (larg9t4[q][inside].mean() for q in ("f", "k"))
            assert f == pytest.approx(larg9t4["f_published"][vial].mean(), rel=0.06)
            assert k == pytest.approx(larg9t4["k_published"][vial].mean(), rel=0.05)

    def test_error_of_the_vials_against_the_prepared_concentration(self, larg9t4):
        means = [larg9t4["f"][v & (larg9t4["valid"] > 0)].mean() for v in vials(larg9t4["mask"])]
        error = np.abs(np.array(means) * MM_PER_FRACTION - 50) / 50
        assert 0 < 100 * error.mean() <= 10.8


def compared(larg3t):
    """Voxels of the eroded masks where the published rate is below 700 1/s."""
    eroded = ndimage.binary_erosion(larg3t["mask"][..., 0] > 0)[..., None]
    return eroded, eroded & (larg3t["k_published"] < 700) & (larg3t["valid"] > 0)


@pytest.mark.shared_data
class TestThreeTesla:
    def test_fractions_correlate_with_the_published(self, larg3t):
        _, inside = compared(larg3t)
        assert inside.sum() > 150
        assert np.corrcoef(larg3t["f"][inside], larg3t["f_published"][inside])[0, 1] >= 0.97

    def test_rates_of_slow_vials(self, larg3t):
        eroded, _ = compared(larg3t)
        checked = 0
        for vial in vials(larg3t["mask"]):
            inside = vial & eroded & (larg3t["valid"] > 0)
            mm = larg3t["f_published"][vial & eroded].mean() * MM_PER_FRACTION
            k = larg3t["k_published"][vial & eroded].mean()
            if k < 700 and mm >= 30:
                checked += 1
                assert larg3t["k"][inside].mean() == pytest.approx(k, rel=0.15)
        assert checked == 4

    @pytest.mark.slow
    def test_frequency_slip_of_the_published_dictionary(self, shared, larg3t, tmp_path):
        """Pool simulated at 369 Hz, RF at 383 Hz: explains part of the lower fractions."""
        raw = copy.deepcopy(load_recipe("larg-3t"))
        offset = raw["stages"][0]["pools"][0]["offset_ppm"]
        offset["value"] *= 369 / 383
        path = tmp_path / "slip.yaml"
        path.write_text(yaml.safe_dump(raw))
        slipped = quantify(shared, "larg3t", str(path), tmp_path)
        ratios = []
        for maps in (larg3t, slipped):
            _, inside = compared(maps)
            ratios.append(np.median(maps["f"][inside] / maps["f_published"][inside]))
        assert ratios[0] == pytest.approx(0.80, abs=0.03)
        assert ratios[1] == pytest.approx(0.90, abs=0.03)


@pytest.mark.parametrize("name", ["larg-9t4", "larg-3t"])
def test_generated_vials(name):
    """Look-alike: vials of known concentration and rate, the recipe's constants true."""
    recipe = Recipe.from_mapping(load_recipe(name))
    frequency = 42.5764 * recipe.field_t
    protocol = fingerprinting_protocol((3.0, 3.0), frequency, pulsed=name == "larg-3t")
    problem = InverseProblem.of_stage(recipe, recipe.stages[0], protocol)
    n = 30
    mm, k = np.repeat([100.0, 50.0, 25.0], n), np.repeat([200.0, 400.0, 650.0], n)
    truth = np.array([mm / MM_PER_FRACTION, k])
    known = np.array([np.zeros(3 * n), np.ones(3 * n)])
    found = estimate(problem, problems.observe(problem, truth, known, sd=0.004))
    for vial in (slice(0, n), slice(n, 2 * n), slice(2 * n, None)):
        assert found.valid[vial].mean() > 0.9
        means = found.mean[:, vial].mean(axis=1)
        np.testing.assert_allclose(means, truth[:, vial].mean(axis=1), rtol=0.06)
