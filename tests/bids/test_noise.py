"""What `observe` knows of a stage's noise and of the errors of known parameters."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import sessions

from cestprep.bids.noise import corners, is_even, repeated_volumes
from cestprep.bids.observe import Record, load_record, observe, save_record
from cestprep.inference.estimate import Estimate
from cestprep.inference.noise import RESIDUAL, background_sd
from cestprep.inference.normalization import Comparison
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

SERIES = "sub-01/ses-01/cest/sub-01_ses-01_acq-mt_cest"
TRUE_SD = 10.0  # of the generated sessions: SNR 100, m0 = 1000


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("pristine") / "bids", shape=(16, 16, 1))


def observed(root, stage="mt", earlier=None, **options):
    planned = sessions.plan(root, **options)
    return observe(planned, planned.stage(stage), earlier or {})


def without_air(root):
    mask = np.asarray(nib.load(sessions.plan(root).mask).dataobj) > 0
    sessions.change_image(SERIES, lambda d: d * mask[..., None])(root)


@pytest.mark.parametrize("stage", ["mt", "amide"])
def test_noise_is_found_in_air(pristine, stage):
    earlier = {"mt": blank(pristine)}
    observation, _ = observed(pristine, stage, earlier)
    assert observation.noise_source == "background"
    assert observation.noise_sd.shape == observation.data.shape[1:]
    np.testing.assert_allclose(observation.noise_sd, TRUE_SD, rtol=0.06)


def test_option_comes_first(pristine):
    observation, _ = observed(pristine, noise_sd={"mt": 12.5})
    assert observation.noise_source == "option"
    assert set(observation.noise_sd) == {12.5}


def test_masked_images_leave_the_residual(dataset):
    without_air(dataset)
    observation, _ = observed(dataset)
    assert observation.noise_sd is None
    assert observation.noise_source == RESIDUAL


def repeat_m0(root, recovery_s):
    """Acquire the first volume again at the end, with noise of its own."""
    rng = np.random.default_rng(3)

    def change(data):
        again = data[..., :1] + np.sqrt(2) * TRUE_SD * rng.standard_normal((*data.shape[:3], 1))
        return np.concatenate([data, np.abs(again)], axis=3).astype(np.float32)

    sessions.change_image(SERIES, change)(root)
    table = root / f"{SERIES}context.tsv"
    first = table.read_text().splitlines()[1].split("\t")
    table.write_text(table.read_text() + "\t".join([*first[:-1], str(recovery_s)]) + "\n")


def test_noise_is_found_in_repeated_m0(dataset):
    repeat_m0(dataset, 15.0)
    without_air(dataset)
    observation, _ = observed(dataset)
    assert observation.noise_source == "repeated M0"
    np.testing.assert_allclose(observation.noise_sd, TRUE_SD, rtol=0.25)


def test_m0_that_has_not_recovered_is_no_repeat(dataset):
    repeat_m0(dataset, 1.0)
    without_air(dataset)
    assert observed(dataset)[0].noise_source == RESIDUAL


def rayleigh(*shape):
    return np.random.default_rng(0).rayleigh(3.0, shape)


@pytest.mark.parametrize(("voxels", "volumes"), [(16, 13), (100, 4), (1000, 31)])
def test_noise_is_even(voxels, volumes):
    assert is_even(rayleigh(voxels, volumes))


@pytest.mark.parametrize(
    "samples",
    [
        np.repeat(rayleigh(400, 1), 31, axis=1),
        np.repeat(rayleigh(1, 400), 31, axis=0),
        rayleigh(64, 31) * np.linspace(0.7, 1.3, 64)[:, None],
        rayleigh(64, 31) * np.linspace(0.7, 1.3, 31),
    ],
    ids=["pattern", "time course", "other level elsewhere", "other level later"],
)
def test_what_is_not_noise_is_uneven(samples):
    """Though its distribution alone would pass."""
    assert background_sd(samples) is not None
    assert not is_even(samples)


@pytest.mark.parametrize("samples", [np.zeros((50, 9)), np.full((50, 9), np.nan), np.ones((0, 9))])
def test_no_samples_are_not_even(samples):
    assert not is_even(samples)


def test_an_object_in_a_corner_is_no_air(dataset):
    def change(data):
        data[:2, :2] += 20
        return data

    sessions.change_image(SERIES, change)(dataset)
    assert observed(dataset)[0].noise_source == RESIDUAL


def test_corners_keep_off_the_mask():
    mask = np.zeros((24, 16, 2), bool)
    assert corners(mask).sum() == 4 * 3 * 2 * 2
    assert corners(mask)[[0, 0, -1, -1], [0, -1, 0, -1]].all()
    mask[:12, 8:] = True
    assert not (corners(mask) & mask).any()
    assert corners(mask).sum() == 3 * 3 * 2 * 2
    mask[:12, 3:] = True
    assert not corners(mask)[:3, 1].any()
    assert corners(mask)[:3, 0].all()


def protocol(*volumes):
    """A series of reference volumes, each given as recovery, saturation and flip angle."""
    blocks = [b for wait, rf, flip in volumes for b in (Recovery(wait), *rf, Readout(flip))]
    return Protocol(tuple(blocks), 300.0, (True,) * len(volumes))


def test_repeated_volumes():
    far = (Saturation(-300.0, 1.0, 0.1), Spoil())
    alike = [(0.0, (), 90.0), (15.0, (), 90.0), (10.0, (), 90.0)]
    others = [(1.0, (), 90.0), (15.0, far, 90.0), (15.0, (), 10.0)]
    assert repeated_volumes(protocol(*alike)) == [0, 1, 2]
    assert repeated_volumes(protocol(*alike[:2], *others, alike[2])) == [0, 1, 5]
    assert repeated_volumes(protocol(alike[0], *others)) == [0]
    saturated = replace(protocol(*alike), is_m0=(True, False, False))
    assert repeated_volumes(saturated) == [0]


def blank(root):
    """An estimate of stage mt with a covariance."""
    planned = sessions.plan(root)
    n_voxels = int((np.asarray(nib.load(planned.mask).dataobj) > 0).sum())
    estimate = Estimate.blank(2, 31, np.zeros(n_voxels))
    joint = np.array([[4e-4, -0.05], [-0.05, 25.0]])[:, :, None]
    return replace(estimate, covariance=np.broadcast_to(joint, (2, 2, n_voxels)))


def test_uncertainty_of_maps_and_earlier_stages_enters_on_request(dataset):
    def change(data):
        data[7, 5] = np.nan
        return data

    sessions.sd_of_t1(change)(dataset)
    earlier = {"mt": blank(dataset)}
    carried, usable = observed(dataset, "amide", earlier)
    exact, all_usable = observed(dataset, "amide", earlier, propagate=False)
    names = sessions.plan(dataset).stage("amide").problem.known_parameters
    variances = dict(zip(names, np.einsum("iiv->iv", carried.known_covariance), strict=True))
    assert {n for n, v in variances.items() if v.any()} == {
        "t1", "semisolid.fraction", "semisolid.k_exchange",
    }  # fmt: skip
    t1 = carried.known[names.index("t1")]
    np.testing.assert_allclose(np.sqrt(variances["t1"]), 0.01 * t1, rtol=1e-4)
    assert not exact.known_covariance.any()
    np.testing.assert_array_equal(exact.known[:, usable], carried.known[:, usable])
    assert usable.size - usable.sum() == 1
    assert all_usable.all()


def test_record_round_trip(pristine, tmp_path):
    observation, _ = observed(pristine, noise_sd={"mt": 12.5})
    comparison = Comparison(3, {"m0": [0.1, 30.0]})
    for record in (
        Record.of(observation, comparison, 13.5),
        Record.of(replace(observation, noise_sd=None, noise_source=RESIDUAL), None, None),
    ):
        assert load_record(save_record(tmp_path / "record.json", record)) == record
    assert Record.of(observation, comparison, 13.5).noise_sd == 12.5
    assert record.noise_sd is None


@pytest.mark.parametrize(("left", "doubted"), [(13.5, False), (40.0, True), (4.0, True)])
def test_noise_that_contradicts_the_residual_is_doubted(left, doubted):
    """In a sentence that names both."""
    found = Record("option", 12.5, left, {}).doubt
    assert bool(found) is doubted
    assert not doubted or ("12.5" in found and f"{left:.4g}" in found)
    assert not Record(RESIDUAL, None, left, {}).doubt
    assert not Record("option", 12.5, None, {}).doubt
