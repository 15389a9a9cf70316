"""What is made of raw scans: which scan each map is from, what is left out, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import problems
import pytest

from cestprep.bids import digital
from cestprep.bids.plan import check_spaces, plan_session
from cestprep.bids.session import make_layout, select_session
from cestprep.bids.synthetic import sidecar_of, write_tabled, write_volume
from cestprep.bids.templates import Space
from cestprep.errors import InputError
from cestprep.phantom.protocols import RECOVERY_S, T2_PREPARATION_S, wasabi_protocol
from cestprep.physics.protocol import Protocol, Readout, Recovery, Saturation, Spoil

STEM = "sub-01/ses-01/{}/sub-01_ses-01_{}"
SHAPE = (12, 11, 9)
SCANNER = {"MagneticFieldStrength": 3.0, "SpectrometerFrequency": digital.FREQUENCY_MHZ}


class Dataset:
    """Images of noise with true tables and sidecars: enough to plan with."""

    def __init__(self, root: Path, shape=SHAPE) -> None:
        self.root, self.out = root / "bids", root / "out"
        self.like = nib.Nifti1Image(np.zeros(shape, np.float32), np.diag([3, 3, 3, 1.0]))
        self.rng, self.shape = np.random.default_rng(0), shape

    def data(self, volumes=None):
        size = self.shape if volumes is None else (*self.shape, volumes)
        return self.rng.uniform(10, 100, size).astype(np.float32)

    def series(self):
        for stage in problems.recipe("brain-3t").stages:
            protocol = digital.stage_protocol(stage)
            self.tabled(f"acq-{stage.name}_cest", "cest", protocol, stage.target)
        return self

    def tabled(self, name, folder, protocol, target, **fields):
        about = {**sidecar_of(protocol, 3.0, target), **fields}
        data = self.data(protocol.n_volumes)
        write_tabled(self.root, STEM.format(folder, name), data, self.like, protocol, about)
        return self

    def timed(self, name, key, times):
        about = {**SCANNER, key: list(times)}
        write_volume(self.root, STEM.format("anat", name), self.data(len(times)), self.like, about)
        return self

    def t1(self):
        return self.timed("SRT1", "SaturationRecoveryTime", RECOVERY_S)

    def t2(self):
        return self.timed("T2PREP", "T2PreparationTime", T2_PREPARATION_S)

    def echoes(self):
        for i, time in enumerate((0.06, 0.02, 0.04, 0.08), start=1):
            stem = STEM.format("anat", f"echo-{i}_MESE")
            write_volume(self.root, stem, self.data(), self.like, {**SCANNER, "EchoTime": time})
        return self

    def wasabi(self):
        about = {"MTPulseDuration": 0.005}
        return self.tabled("WASABI", "fmap", wasabi_protocol(digital.FREQUENCY_MHZ), "", **about)

    def wassr(self):
        blocks = [Recovery(5.0), Readout(15.0)]
        for offset in np.linspace(-1, 1, 11).round(3).tolist():
            blocks += [Recovery(3.0), Saturation(offset, 0.3, 0.1), Spoil(), Readout(15.0)]
        protocol = Protocol(tuple(blocks), digital.FREQUENCY_MHZ, (True, *(False,) * 11))
        return self.tabled("acq-wassr_cest", "cest", protocol, "water")

    def angles(self, second=120):
        for i, angle in enumerate((60, second), start=1):
            stem = STEM.format("fmap", f"flip-{i}_TB1DAM")
            write_volume(self.root, stem, self.data(), self.like, {**SCANNER, "FlipAngle": angle})
        return self

    def anatomy(self, *, complete=True):
        root = self.root.parent / "fmriprep"
        stem = "sub-01/anat/sub-01_"
        like = nib.Nifti1Image(np.zeros((6, 6, 6), np.float32), np.eye(4))
        names = ["desc-preproc_T1w", "desc-brain_mask", "label-GM_probseg", "label-WM_probseg"]
        for name in [*names, *(["label-CSF_probseg"] if complete else [])]:
            write_volume(root, stem + name, np.ones((6, 6, 6), np.float32), like, {})
        return {"fmriprep": make_layout(root, ["01"])}

    def plan(self, derivatives=None, recipe="brain-3t", nominal=(), **options):
        layout = make_layout(self.root, ["01"])
        files = select_session(layout, derivatives or {}, "01", "01")
        return plan_session(files, problems.recipe(recipe), nominal, out_dir=self.out, **options)


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path).series()


def faults(dataset, **options):
    with pytest.raises(InputError) as caught:
        dataset.plan(**options)
    return [str(f) for f in caught.value.faults]


def test_a_whole_session_makes_everything(dataset):
    plan = dataset.t1().t2().wasabi().plan()
    assert dict(plan.preparation.maps) == {
        "T1": "SRT1", "T2": "T2PREP", "B0": "WASABI", "B1": "WASABI",
    }  # fmt: skip
    assert plan.preparation.anatomy
    assert plan.mask in plan.made
    assert not plan.preparation.still
    assert [r.name for r in plan.regions] == ["WM", "GM", "CSF"]
    assert all(stage.series.image.is_relative_to(dataset.out) for stage in plan.stages)
    assert not set(plan.files) & set(plan.made)
    assert all(path.exists() for path in plan.files)
    text = plan.describe()
    assert "T1: made from SRT1" in text
    assert "motion: of mt, amide, SRT1, T2PREP" in text


def test_echoes_wassr_and_angles_are_the_alternatives(dataset):
    plan = dataset.t1().echoes().wassr().angles().plan()
    assert dict(plan.preparation.maps) == {
        "T1": "SRT1", "T2": "MESE", "B0": "WASSR", "B1": "TB1DAM",
    }  # fmt: skip
    echoes = plan.preparation.scan_of("T2")
    assert echoes.times_s == (0.02, 0.04, 0.06, 0.08)
    assert [p.name.split("_")[2] for p in echoes.images] == ["echo-2", "echo-3", "echo-1", "echo-4"]
    assert echoes.anchor == 0
    assert plan.preparation.scan_of("B0").banded
    assert not plan.unused


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (("t2", "wasabi"), ["no T1 map (T1map)", "SRT1"]),
        (("t1", "wasabi"), ["no T2 map (T2map)", "T2PREP or MESE"]),
        (("t1", "t2", "angles"), ["no B0 map", "WASABI or WASSR", "--assume-nominal B0"]),
        (("t1", "t2", "wassr"), ["no B1 map", "WASABI or TB1DAM", "--assume-nominal B1"]),
    ],
)
def test_what_is_missing_is_named_with_what_would_do(dataset, made, missing):
    for name in made:
        getattr(dataset, name)()
    said = " ".join(faults(dataset))
    assert all(words in said for words in missing)


def test_without_t1_there_is_no_brain(dataset):
    said = faults(dataset.t2().wasabi())
    assert any("no brain mask" in line for line in said)


def test_fields_by_wasabi_need_relaxation(dataset):
    """The faults name T1 only: it is what keeps B0 and B1 from being made."""
    said = faults(dataset.t2().wasabi())
    assert not any("B0" in line or "B1" in line for line in said)


def test_nominal_fields_are_a_choice(dataset):
    plan = dataset.t1().t2().plan(nominal=("B0", "B1"))
    assert dict(plan.preparation.maps) == {"T1": "SRT1", "T2": "T2PREP"}


@pytest.mark.parametrize(
    ("options", "why"),
    [({"motion": False}, "--no-motion"), ({}, "too few to hold a registration")],
)
def test_what_is_not_registered_says_why(tmp_path, options, why):
    shape = SHAPE if options else (12, 11, 3)
    dataset = Dataset(tmp_path, shape).series().t1().t2().wasabi()
    if not options:  # nor can a template be found in so few slices
        said = faults(dataset)
        assert [line for line in said if "no brain mask" in line]
        return
    plan = dataset.plan(**options)
    assert why in plan.preparation.still
    assert why in plan.describe()
    assert all(stage.raw is None for stage in plan.stages)


def test_standard_spaces_are_planned(dataset):
    plan = dataset.t1().t2().wasabi().plan(spaces=(Space("MNI152NLin2009aSym", 2),))
    assert "maps also in: MNI152NLin2009aSym:res-2" in plan.describe()


@pytest.mark.parametrize(
    ("recipe", "shape", "why"),
    [("brain-3t", (12, 11, 3), "too few to hold"), ("larg-3t", SHAPE, "is for phantoms"),
     ("brain-3t", SHAPE, "found in a map of T1")],
)  # fmt: skip
def test_standard_spaces_need_a_head_and_t1(tmp_path, recipe, shape, why):
    spaces = (Space("MNI152NLin2009aSym", 2),)
    series = Path("sub-01_acq-mt_cest.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / series)
    (fault,) = check_spaces(spaces, problems.recipe(recipe), tmp_path / series, ["T2"])
    assert why in str(fault)
    assert "--output-spaces MNI152NLin2009aSym:res-2" in str(fault)


def test_several_scans_of_a_kind_are_refused(dataset):
    about = {**SCANNER, "SaturationRecoveryTime": list(RECOVERY_S)}
    data = dataset.data(len(RECOVERY_S))
    write_volume(dataset.root, STEM.format("anat", "run-2_SRT1"), data, dataset.like, about)
    assert any("2 SRT1 scans" in line for line in faults(dataset.t1().t2().wasabi()))


@pytest.mark.parametrize(
    ("times", "said"),
    [(None, "expected a list of seconds"), ([1000.0] * 12, "expected a list of seconds"),
     ([1.0, 2.0, 3.0], "lists 3 times"), ([1.0] * 12, "too few for a map")],
)  # fmt: skip
def test_times_must_fit_the_volumes(dataset, times, said):
    dataset.t1().t2().wasabi()
    sidecar = dataset.root / f"{STEM.format('anat', 'SRT1')}.json"
    about = json.loads(sidecar.read_text())
    about["SaturationRecoveryTime"] = times
    sidecar.write_text(json.dumps(about))
    assert any(said in line for line in faults(dataset))


def spoil(path, change):
    image = nib.load(path)
    data = change(image.get_fdata(dtype=np.float32))
    nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine), path)


def with_nan(data):
    data[3, 3, 3, 4] = np.nan
    return data


@pytest.mark.parametrize(
    ("folder", "name", "change", "said"),
    [("anat", "SRT1", with_nan, "holds NaN or infinite values in volumes 5"),
     ("anat", "T2PREP", lambda d: -d, "holds negative values"),
     ("fmap", "WASABI", lambda d: 0 * d, "is zero everywhere"),
     ("fmap", "WASABI", lambda d: d * (np.arange(25) != 2), "volumes 3 are zero")],
)  # fmt: skip
def test_scans_without_usable_signal_are_named(dataset, folder, name, change, said):
    dataset.t1().t2().wasabi()
    path = dataset.root / f"{STEM.format(folder, name)}.nii.gz"
    spoil(path, change)
    assert any(said in line and path.name in line for line in faults(dataset))


def test_echoes_on_several_grids_are_refused(dataset):
    dataset.t1().echoes().wasabi()
    spoil(dataset.root / f"{STEM.format('anat', 'echo-3_MESE')}.nii.gz", lambda d: d[:-1])
    assert any("echo-3" in line and "is not on the grid of" in line for line in faults(dataset))


def test_angles_must_be_one_to_two(dataset):
    said = faults(dataset.t1().t2().wassr().angles(second=90))
    assert any("60 and 90 degrees" in line for line in said)


def test_prepared_series_are_taken_as_they_are(dataset):
    """A run's own derivatives, given to another: nothing is moved again."""
    dataset.t1().t2().wasabi()
    first = dataset.plan()
    for stage in first.stages:
        path = stage.series.image
        name = f"{path.parent.name}/{path.name.partition('.')[0]}"
        protocol = stage.problem.protocol
        about = sidecar_of(protocol, 3.0, stage.stage.target)
        stem = path.relative_to(dataset.out).parent.parent / name
        data = dataset.data(protocol.n_volumes)
        write_volume(dataset.out, str(stem), data, dataset.like, about)
        table = Path(stage.series.context)
        (path.parent / table.name).write_text(table.read_text())
    plan = dataset.plan({"prep": make_layout(dataset.out, ["01"])})
    assert plan.preparation.prepared == ("mt", "amide")
    assert all(stage.raw is None for stage in plan.stages)
    assert [s.name for s in plan.preparation.moving] == ["SRT1", "T2PREP", "WASABI"]


def test_anatomy_of_fmriprep_gives_brain_and_tissues(dataset):
    plan = dataset.t1().t2().wasabi().plan(dataset.anatomy())
    assert plan.preparation.given.t1w.name == "sub-01_desc-preproc_T1w.nii.gz"
    assert [p.name for p in plan.preparation.given.tissues] == [
        f"sub-01_label-{name}_probseg.nii.gz" for name in ("WM", "GM", "CSF")
    ]
    assert plan.mask in plan.made  # its own mask lies on another grid
    assert "registered to the reference" in plan.describe()


def test_incomplete_anatomy_is_refused(dataset):
    dataset.t1().t2().wasabi()
    with pytest.raises(InputError, match="label-CSF_probseg"):
        dataset.plan(dataset.anatomy(complete=False))
