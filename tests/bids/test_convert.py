"""Conversion: a session comes back file by file; what is not said is asked, never guessed."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import commands
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from brukers import write_bruker
from scipy.io import savemat

from cestprep.bids.protocols import build_protocol, read_context
from cestprep.bids.sidecars import applicable, metadata
from cestprep.bids.spec.examples import pulseq_text
from cestprep.bids.validation import validate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "mice7t"
VOXEL = (0.296875, 0.296875, 1.5)
TARGETS = {"mt": "semisolid", "amide": "amide", "rnoe": "rNOE"}


def tool(*arguments):
    return commands.tool("convert", *arguments)


def lookalike(root):
    """A mouse session as the shared ones: top-level tables, one slice, 7 T."""
    rng = np.random.default_rng(1)
    affine = np.diag([*VOXEL, 1.0])
    for name, target in TARGETS.items():
        table = pd.DataFrame(
            {
                "volume_type": ["m0scan", *["saturated"] * 4],
                "saturation_offset": [np.nan, *([3.5] * 4 if name == "amide" else [8, 6, 10, 14])],
                "saturation_b1": [0, 2, 1.7, 0.25, 3],
                "saturation_duration": [0, 2.5, 2.5, 2.5, 2.5],
                "recovery_time": [15.0, 15.0, 1.0, 1.0, 1.0],
            }
        )
        folder = root / "sub-m01/ses-pre/cest"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(root / f"acq-{name}_cestcontext.tsv", sep="\t", index=False, na_rep="n/a")
        fields = {
            "MagneticFieldStrength": 7, "SpectrometerFrequency": 298.035,
            "CESTAcquisitionType": "MRF", "M0Type": "Included", "SaturationB1Definition": "rms",
            "MTNumberOfPulses": 1, "MTPulseDuration": 2.5, "MTPulseShape": "HARD",
            "SaturationPulseDelay": 0, "SaturationSpinLock": False, "FlipAngle": 90,
            "NumberShots": 1, "SaturationTarget": [target],
        }  # fmt: skip
        (root / f"acq-{name}_cest.json").write_text(json.dumps(fields))
        data = rng.uniform(1, 100, (8, 7, 1, 5)).astype(np.float32)
        image = nib.Nifti1Image(data, affine)
        image.header.set_zooms((*VOXEL, 3.5))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / f"sub-m01_ses-pre_acq-{name}_cest.nii.gz")
    anat = root / "sub-m01/ses-pre/anat"
    anat.mkdir()
    for suffix, value in (("T1map", 1.8), ("T2map", 0.04)):
        image = nib.Nifti1Image(np.full((8, 7, 1), value, np.float32), affine)
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, anat / f"sub-m01_ses-pre_{suffix}.nii.gz")
        about = {"Units": "s", "MagneticFieldStrength": 7}
        (anat / f"sub-m01_ses-pre_{suffix}.json").write_text(json.dumps(about))
    return root


def exported(image, folder, name):
    """A series as fingerprinting repositories ship it: volumes first, one slice."""
    data = np.moveaxis(nib.load(image).get_fdata(dtype=np.float32), -1, 0)
    np.save(folder / f"{name}.npy", data[..., 0])
    return folder / f"{name}.npy"


def convert_session(original, out, tmp_path):
    """Every file of the session from .npy and text tables."""
    session = original / "sub-m01/ses-pre"
    shared = ("--subject", "m01", "--session", "pre", "--voxel-mm", *VOXEL)
    for name, target in TARGETS.items():
        image = session / f"cest/sub-m01_ses-pre_acq-{name}_cest.nii.gz"
        table = read_context(original / f"acq-{name}_cestcontext.tsv").iloc[1:]
        for column in ("saturation_offset", "saturation_b1", "recovery_time"):
            lines = "\n".join(map(repr, table[column].tolist()))
            (tmp_path / f"{name}_{column}.txt").write_text(lines)
        done = tool(
            "series", exported(image, tmp_path, name), out, *shared, "--acq", name, "--shared",
            "--volume-axis", 0, "--offsets", tmp_path / f"{name}_saturation_offset.txt",
            "--b1", tmp_path / f"{name}_saturation_b1.txt", "--recovery",
            tmp_path / f"{name}_recovery_time.txt", "--saturation-duration", 2.5,
            "--offset-unit", "ppm", "--positive-offset", "downfield", "--b1-definition", "rms",
            "--m0", "first", "--field-t", 7, "--frequency-mhz", 298.035, "--target", target,
            "--acquisition-type", "MRF", "--pulses", 1, "--pulse-duration", 2.5,
            "--pulse-shape", "HARD", "--pulse-delay", 0, "--no-spin-lock", "--flip-angle", 90,
            "--shots", 1,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for suffix in ("T1map", "T2map"):
        data = nib.load(session / f"anat/sub-m01_ses-pre_{suffix}.nii.gz").get_fdata()
        np.save(tmp_path / f"{suffix}.npy", data[..., 0].astype(np.float32))
        done = tool("map", tmp_path / f"{suffix}.npy", out, *shared, "--suffix", suffix,
                    "--units", "s", "--field-t", 7)  # fmt: skip
        assert done.returncode == 0, done.stderr


def compare(original, out):
    """File by file: same names, same numbers, same fields."""
    of_session = [p.relative_to(original) for p in original.glob("sub-m01/ses-pre/**/*.*")]
    of_session += [p.relative_to(original) for p in original.glob("acq-*")]
    written = {p.relative_to(out) for p in out.glob("sub-*/**/*.*")}
    written |= {p.relative_to(out) for p in out.glob("acq-*")}
    assert written == set(of_session)
    for name in of_session:
        if name.name.endswith(".nii.gz"):
            a, b = nib.load(original / name), nib.load(out / name)
            np.testing.assert_array_equal(a.get_fdata(), b.get_fdata())
            np.testing.assert_allclose(a.affine, b.affine, atol=1e-7)
            np.testing.assert_allclose(a.header.get_zooms(), b.header.get_zooms(), atol=1e-6)
            assert a.get_data_dtype() == b.get_data_dtype()
        elif name.suffix == ".json":
            assert json.loads((original / name).read_text()) == json.loads((out / name).read_text())
        else:
            pd.testing.assert_frame_equal(
                read_context(original / name), read_context(out / name), check_dtype=False
            )


def test_a_generated_session_comes_back(tmp_path):
    original = lookalike(tmp_path / "original")
    convert_session(original, tmp_path / "out", tmp_path)
    compare(original, tmp_path / "out")
    assert not validate(tmp_path / "out").errors


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real mice in ../shared")
def test_a_real_mouse_comes_back(tmp_path):
    convert_session(SHARED, tmp_path / "out", tmp_path)
    compare(SHARED, tmp_path / "out")


@pytest.fixture
def arrays(tmp_path):
    """A series of one reference and three volumes, as text and array."""
    np.save(tmp_path / "x.npy", np.ones((5, 4, 3, 4), np.float32))
    (tmp_path / "offsets.txt").write_text("1022 766 447")
    (tmp_path / "b1.txt").write_text("2 1.5 3")
    return tmp_path


SAID = {
    "--offset-unit": "Hz", "--positive-offset": "downfield", "--b1-definition": "rms",
    "--m0": "first", "--field-t": 3, "--frequency-mhz": 127.73, "--target": "amide",
    "--acquisition-type": "MRF", "--pulses": 1, "--pulse-duration": 2.5, "--pulse-shape": "HARD",
    "--flip-angle": 15,
}  # fmt: skip


def series(folder, said, *extra):
    words = [word for pair in said.items() for word in pair]
    return tool("series", folder / "x.npy", folder / "out", "--subject", "01", "--volume-axis", 3,
                "--voxel-mm", 2, 2, 2, "--offsets", folder / "offsets.txt", "--b1",
                folder / "b1.txt", "--saturation-duration", 2.5, "--recovery", 1, *words,
                *extra)  # fmt: skip


@pytest.mark.parametrize("left_out", SAID)
def test_what_is_not_said_is_asked(arrays, left_out):
    """The question names the option; the table so far is shown; nothing is written."""
    done = series(arrays, {k: v for k, v in SAID.items() if k != left_out})
    assert done.returncode == 2
    assert f"error: {left_out}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "The table so far" in done.stderr
    assert "saturation_offset" in done.stderr
    assert not (arrays / "out").exists()


def test_units_and_sides_are_converted(arrays):
    assert series(arrays, SAID | {"--positive-offset": "upfield"}).returncode == 0
    table = read_context(arrays / "out/sub-01/cest/sub-01_cestcontext.tsv")
    np.testing.assert_allclose(
        table["saturation_offset"], [np.nan, *(-np.array([1022, 766, 447]) / 127.73)]
    )
    assert table["volume_type"].tolist() == ["m0scan", *["saturated"] * 3]
    image = arrays / "out/sub-01/cest/sub-01_cest.nii.gz"
    fields = metadata(image, arrays / "out")
    fields |= {"NumberShots": 1}
    context = applicable(image, arrays / "out", "cestcontext", ".tsv")[0]
    assert build_protocol(table, fields, image, context).n_volumes == 4
    assert series(arrays, SAID | {"--positive-offset": "upfield"}).returncode == 0  # the same
    again = series(arrays, SAID)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)


def test_a_sequence_is_kept_and_described(arrays):
    (arrays / "x.seq").write_text(pulseq_text((8.0, 6.0, 3.5), (2.0, 1.5, 3.0)))
    said = {k: SAID[k] for k in ("--m0", "--field-t", "--frequency-mhz", "--target",
                                 "--acquisition-type", "--flip-angle")}  # fmt: skip
    words = [word for pair in said.items() for word in pair]
    done = tool("series", arrays / "x.npy", arrays / "out", "--subject", "01", "--volume-axis", 3,
                "--voxel-mm", 2, 2, 2, "--seq", arrays / "x.seq", "--acq", "mt",
                *words)  # fmt: skip
    assert done.returncode == 0, done.stderr
    beside = tool("series", arrays / "x.npy", arrays / "two", "--subject", "01", "--volume-axis", 3,
                  "--voxel-mm", 2, 2, 2, "--seq", arrays / "x.seq", *words, "--pulses", 5,
                  "--b1-definition", "rms")  # fmt: skip
    assert (beside.returncode, "--b1-definition, --pulses: given beside" in beside.stderr) == (
        2,
        True,
    )
    assert "Only x.seq says: The time from saturation to readout" in done.stdout
    assert "4 volumes, 1 of them references; offsets 3.5 to 8 ppm" in done.stdout
    kept = arrays / "out/sub-01/cest/sub-01_acq-mt_cest.seq"
    assert kept.read_text() == (arrays / "x.seq").read_text()
    assert not validate(arrays / "out").errors


def test_matlab_arrays_are_chosen_by_name(arrays):
    savemat(arrays / "x.mat", {"zspec": np.ones((5, 4, 3, 4)), "mask": np.ones((5, 4, 3))})
    words = [word for pair in SAID.items() for word in pair]
    command = ("series", arrays / "x.mat", arrays / "out", "--subject", "01", "--volume-axis", 3,
               "--voxel-mm", 2, 2, 2, "--offsets", arrays / "offsets.txt", "--b1",
               arrays / "b1.txt", "--saturation-duration", 2.5, "--recovery", 1,
               *words)  # fmt: skip
    done = tool(*command)
    assert done.returncode == 2
    assert "zspec (5, 4, 3, 4), mask (5, 4, 3); which one is meant?" in done.stderr
    assert tool(*command, "--variable", "zspec").returncode == 0


def test_masks_go_into_a_derivative_dataset(arrays):
    np.save(arrays / "m.npy", np.ones((5, 4, 3), np.uint8))
    common = ("mask", arrays / "m.npy", arrays / "masks", "--subject", "01", "--voxel-mm", 2, 2, 2)
    assert tool(*common).returncode == 0
    assert not validate(arrays / "masks").errors
    assert (arrays / "masks/sub-01/cest/sub-01_desc-brain_mask.nii.gz").exists()
    np.save(arrays / "m.npy", np.full((5, 4, 3), 255, np.uint8))
    done = tool(*common, "--label", "two")
    assert (done.returncode, "from 255 to 255, a mask has 0 and 1" in done.stderr) == (2, True)


IMPLAUSIBLE = {
    "frequency": ({"--frequency-mhz": 300}, "300 MHz, but protons at 3 T"),
    "offsets in Hz called ppm": ({"--offset-unit": "ppm"}, "row 2: "),
    "flip angle": ({"--flip-angle": 400}, "expected at most 180"),
    "duration in ms": ({"--pulse-duration": 2500}, "no saturation_duration equals"),
    "negative B1": ({"--b1": "negative.txt"}, "saturation_b1 is negative"),
    "tables exchanged": (
        {"--b1": "offsets.txt", "--offsets": "b1.txt", "--offset-unit": "ppm"},
        "no plausible amplitude",
    ),
    "ppm called Hz": ({"--offsets": "b1.txt"}, "within 0.023487 ppm of water"),
    "recovery in ms": ({"--recovery": 1000}, "recovery_time is 1000"),
}


@pytest.mark.parametrize("case", IMPLAUSIBLE)
def test_what_validation_would_refuse_is_not_written(arrays, case):
    (arrays / "negative.txt").write_text("2 -1.5 3")
    said, expected = IMPLAUSIBLE[case]
    files = {k: arrays / v if str(v).endswith(".txt") else v for k, v in said.items()}
    done = series(arrays, SAID | files)
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
    assert "The table so far" in done.stderr
    assert not (arrays / "out").exists()


def test_small_things_are_taken_as_meant(arrays):
    """A byte order mark, labels with their prefix, a mask of true and false."""
    offsets = arrays / "offsets.txt"
    offsets.write_text("\ufeff" + offsets.read_text(), "utf-8")
    done = series(arrays, SAID, "--subject", "sub-01", "--acq", "acq-mt")
    assert done.returncode == 0, done.stderr
    assert (arrays / "out/sub-01/cest/sub-01_acq-mt_cest.nii.gz").exists()
    np.save(arrays / "m.npy", np.ones((5, 4, 3), bool))
    done = tool("mask", arrays / "m.npy", arrays / "masks", "--subject", "01", "--voxel-mm", 2, 2,
                2)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_table_that_lacks_another_row_than_the_reference_is_asked_about(arrays):
    """The first volume is in the tables, and the last is not."""
    (arrays / "offsets.txt").write_text("9 1022 766")
    (arrays / "b1.txt").write_text("0 2 1.7")
    done = series(arrays, SAID)
    assert (done.returncode, "begin with a row without B1" in done.stderr) == (2, True)
    done = series(arrays, SAID | {"--m0": "zero-b1"})
    assert (done.returncode, "3 rows for 4 volumes" in done.stderr) == (2, True)


def test_references_that_are_not_there_are_refused(arrays):
    (arrays / "offsets.txt").write_text("9 9 1022 766")
    (arrays / "b1.txt").write_text("3 2 2 1.7")
    done = series(arrays, SAID | {"--m0": "zero-b1"})
    assert (done.returncode, "no volume is without saturation" in done.stderr) == (2, True)


def test_trains_and_shots_need_their_gaps(arrays):
    done = series(arrays, SAID | {"--pulses": 13, "--shots": 45})
    assert done.returncode == 2
    for option in ("--pulse-delay", "--spin-lock", "--shot-interval"):
        assert f"{option}: is not given" in done.stderr


IMPOSSIBLE = {
    "voxels without size": ("--voxel-mm", "0", "2", "2"),
    "no frequency": ("--frequency-mhz", "0"),
    "no pulses": ("--pulses", "0"),
    "a repeat by name": ("--run-index", "two"),
    "a label with an underscore": ("--acq", "m_t"),
    "shared without a label": ("--shared",),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_impossible_options_are_refused_before_anything_is_written(arrays, case):
    done = series(arrays, SAID, *IMPOSSIBLE[case])
    assert (done.returncode, IMPOSSIBLE[case][0] in done.stderr) == (2, True)
    assert not (arrays / "out").exists()


def test_a_place_that_cannot_be_written_is_named(arrays):
    (arrays / "file").write_text("")
    done = tool("mask", arrays / "x.npy", arrays / "file/out", "--subject", "01", "--voxel-mm", 2,
                2, 2)  # fmt: skip
    assert done.returncode == 2
    np.save(arrays / "m.npy", np.ones((5, 4, 3), np.uint8))
    done = tool("mask", arrays / "m.npy", arrays / "file/out", "--subject", "01", "--voxel-mm", 2,
                2, 2)  # fmt: skip
    assert (done.returncode, str(arrays / "file") in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr


def test_a_field_map_needs_a_sign_and_a_magnitude(arrays):
    np.save(arrays / "b0.npy", np.linspace(-90, 60, 60).reshape(5, 4, 3))
    np.save(arrays / "m.npy", np.ones((5, 4, 3)))
    command = ("map", arrays / "b0.npy", arrays / "out", "--subject", "01", "--voxel-mm", 2, 2, 2,
               "--suffix", "fieldmap", "--units", "Hz", "--field-t", 3)  # fmt: skip
    done = tool(*command)
    assert done.returncode == 2
    for option in ("--magnitude", "--positive-field"):
        assert f"{option}: is not given for a field map" in done.stderr
    assert not (arrays / "out").exists()
    done = tool(*command, "--magnitude", arrays / "m.npy", "--positive-field", "below")
    assert done.returncode == 0, done.stderr
    found = nib.load(arrays / "out/sub-01/fmap/sub-01_fieldmap.nii.gz").get_fdata()
    np.testing.assert_allclose(found, -np.load(arrays / "b0.npy"), rtol=1e-6)
    assert not validate(arrays / "out").errors
    done = tool("map", arrays / "m.npy", arrays / "out", "--subject", "01", "--voxel-mm", 2, 2, 2,
                "--suffix", "T1map", "--units", "s", "--positive-field", "above")  # fmt: skip
    assert (done.returncode, "is of field maps only" in done.stderr) == (2, True)


def test_sequences_of_another_frequency_are_refused_or_remarked(arrays):
    text = pulseq_text((8.0, 6.0, 3.5), (2.0, 1.5, 3.0))
    words = ("--m0", "first", "--target", "amide", "--acquisition-type", "MRF", "--flip-angle", 15)
    command = ("series", arrays / "x.npy", arrays / "out", "--subject", "01", "--volume-axis", 3,
               "--voxel-mm", 2, 2, 2, "--seq", arrays / "x.seq", *words)  # fmt: skip
    (arrays / "x.seq").write_text(text.replace("FREQ 127.73", "B0 7"))
    done = tool(*command, "--field-t", 3, "--frequency-mhz", 127.73)
    assert (done.returncode, "is written for 298.035 MHz" in done.stderr) == (2, True)
    (arrays / "x.seq").write_text(text)
    done = tool(*command, "--field-t", 3, "--frequency-mhz", 123.25)
    assert done.returncode == 0, done.stderr
    assert "says of itself: written for 127.73 MHz, simulated at 123.25 MHz" in done.stdout


def test_a_reference_near_water_is_refused_and_a_far_one_is_told(arrays):
    """The first of four given rows, which are saturated all."""
    (arrays / "b1.txt").write_text("2 2 1.5 3")
    (arrays / "offsets.txt").write_text("1022 766 447 447")
    done = series(arrays, SAID)
    assert (done.returncode, "row 1 saturates 8.0" in done.stderr) == (2, True), done.stderr
    (arrays / "offsets.txt").write_text("-12773 766 447 447")
    done = series(arrays, SAID)
    assert done.returncode == 0, done.stderr
    assert "Row 1 (2 uT at -100 ppm) is taken as the reference." in done.stdout
    (arrays / "b1.txt").write_text("2 1.5 3")
    (arrays / "offsets.txt").write_text("1022 766 447")
    done = series(arrays, SAID, "--run-index", 2)
    assert "A first row was added for the reference, recovery 1 s" in done.stdout


def test_what_probably_is_not_meant_is_remarked(arrays):
    done = series(arrays, SAID | {"--positive-offset": "upfield", "--target": "apt"})
    assert "no packaged recipe is for --target apt; they are for amide, " in done.stdout
    done = series(arrays, SAID | {"--positive-offset": "upfield"}, "--run-index", 2)
    assert "no offset lies between 2 and 5 ppm, where amide is" in done.stdout


def test_a_series_states_what_it_would_otherwise_inherit(arrays):
    gaps = {"--pulses": 2, "--pulse-duration": 1, "--pulse-delay": 0.5}
    done = series(arrays, SAID | gaps, "--spin-lock", "--shared", "--acq", "mt")
    assert done.returncode == 0, done.stderr
    done = tool(*_command(arrays, SAID), "--subject", "02", "--acq", "mt")
    assert done.returncode == 2, done.stdout
    assert "SaturationSpinLock True would come from a file above" in done.stderr
    stale = arrays / "out/sub-03/cest"
    stale.mkdir(parents=True)
    for name in ("cest.seq", "cest.json", "cestcontext.tsv"):
        (stale / f"sub-03_acq-mt_{name}").write_text("{}")
        done = tool(*_command(arrays, SAID | gaps), "--subject", "03", "--acq", "mt", "--spin-lock",
                    "--shared")  # fmt: skip
        assert (done.returncode, f"{name}: exists already" in done.stderr) == (2, True), name
        (stale / f"sub-03_acq-mt_{name}").unlink()
    assert not list((arrays / "out").rglob(".tmp-*"))


def _command(folder, said):
    words = [word for pair in said.items() for word in pair]
    return ("series", folder / "x.npy", folder / "out", "--volume-axis", 3, "--voxel-mm", 2, 2, 2,
            "--offsets", folder / "offsets.txt", "--b1", folder / "b1.txt", "--saturation-duration",
            2.5, "--recovery", 1, *words)  # fmt: skip


@pytest.mark.parametrize("kind", ["zeros", "phase", "NaN"])
def test_a_series_without_magnitudes_is_not_written(arrays, kind):
    data = np.random.default_rng(4).uniform(-1, 1, (5, 4, 3, 4))
    data = {"zeros": 0 * data, "phase": data, "NaN": np.nan * data}[kind]
    np.save(arrays / "x.npy", data)
    done = series(arrays, SAID)
    expected = "no magnitudes" if kind == "phase" else "4 of 4 volumes hold no signal"
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr
    assert not (arrays / "out").exists()


def test_an_array_takes_its_place_from_an_image(arrays):
    affine = np.array([[0, 2.0, 0, -7], [-2, 0, 0, 9], [0, 0, 3, 5], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.ones((5, 4, 3), np.float32), affine), arrays / "like.nii.gz")
    np.save(arrays / "t1.npy", np.full((5, 4, 3), 1.2))
    command = ("map", arrays / "t1.npy", arrays / "out", "--subject", "01", "--suffix", "T1map",
               "--units", "s")  # fmt: skip
    done = tool(*command, "--like", arrays / "like.nii.gz")
    assert done.returncode == 0, done.stderr
    written = nib.load(arrays / "out/sub-01/anat/sub-01_T1map.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    np.save(arrays / "t1.npy", np.full((4, 5, 3), 1.2))
    done = tool(*command, "--run-index", 2, "--like", arrays / "like.nii.gz")
    assert (done.returncode, "(4, 5, 3) voxels, " in done.stderr) == (2, True)


def test_files_that_belong_to_nothing_are_not_replaced(arrays):
    np.save(arrays / "t1.npy", np.full((5, 4, 3), 1.2))
    command = ("map", arrays / "t1.npy", arrays / "out", "--voxel-mm", 2, 2, 2, "--suffix", "T1map",
               "--units", "s")  # fmt: skip
    assert tool(*command, "--subject", "01").returncode == 0
    lone = arrays / "out/sub-02/anat/sub-02_T1map.json"
    lone.parent.mkdir(parents=True)
    lone.write_text('{"Units": "ms"}')
    done = tool(*command, "--subject", "02")
    assert (done.returncode, f"{lone}: exists already" in done.stderr) == (2, True), done.stderr
    assert list(lone.parent.iterdir()) == [lone]


def test_a_dataset_that_is_not_valid_is_not_added_to(arrays):
    (arrays / "out").mkdir()
    (arrays / "out/dataset_description.json").write_text('{"Name": "x"}')
    done = series(arrays, SAID)
    assert (done.returncode, "lacks BIDSVersion" in done.stderr) == (2, True)


@pytest.mark.parametrize("when", ["full disk", "interrupted"])
def test_what_stops_half_way_leaves_nothing(arrays, monkeypatch, when):
    def stop(*_):
        raise (
            OSError(errno.ENOSPC, "No space left on device")
            if when == "full disk"
            else (KeyboardInterrupt)
        )

    monkeypatch.setattr(nib, "save", stop)
    done = series(arrays, SAID)
    assert done.returncode == (2 if when == "full disk" else 130)
    assert ("No space left" if when == "full disk" else "interrupted") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (arrays / "out").exists()
    assert not list(arrays.glob(".tmp-*"))
    monkeypatch.undo()
    assert series(arrays, SAID).returncode == 0


def test_whole_numbers_of_eight_bytes_are_taken(arrays):
    image = nib.Nifti1Image(np.arange(240).reshape(5, 4, 3, 4) + 1, np.eye(4), dtype=np.int64)
    nib.save(image, arrays / "x.nii.gz")
    words = [word for pair in SAID.items() for word in pair]
    done = tool("series", arrays / "x.nii.gz", arrays / "out", "--subject", "01", "--offsets",
                arrays / "offsets.txt", "--b1", arrays / "b1.txt", "--saturation-duration", 2.5,
                "--recovery", 1, *words)  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = nib.load(arrays / "out/sub-01/cest/sub-01_cest.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), image.get_fdata())
    assert not validate(arrays / "out").errors


def test_a_map_whose_unit_is_another_is_not_written(arrays):
    np.save(arrays / "t1.npy", np.full((5, 4, 3), 1200.0))
    done = tool("map", arrays / "t1.npy", arrays / "out", "--subject", "01", "--voxel-mm", 2, 2, 2,
                "--suffix", "T1map", "--units", "s")  # fmt: skip
    assert (done.returncode, "median 1200 s is no plausible T1" in done.stderr) == (2, True)
    assert not (arrays / "out").exists()


def write_dicom(folder, data, frequency_mhz=123.25, field_t=3, flip_deg=15, series=1, kind="M"):
    """Classic MR images (x, y, slices, volumes), as few fields as dcm2niix takes."""
    import pydicom.uid as uid
    from pydicom.dataset import Dataset, FileMetaDataset

    folder.mkdir(parents=True, exist_ok=True)
    study, of_series, frame = (uid.generate_uid() for _ in range(3))
    nx, ny, nz, nv = data.shape
    for v, z in np.ndindex(nv, nz):
        d, d.file_meta = Dataset(), FileMetaDataset()
        d.SOPClassUID, d.SOPInstanceUID = uid.MRImageStorage, uid.generate_uid()
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        d.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, of_series, frame
        d.Modality, d.Manufacturer, d.PatientName, d.PatientID = "MR", "SIEMENS", "x", "x"
        d.StudyDate, d.StudyTime, d.AcquisitionTime = "20260101", "120000", f"1200{v:02d}"
        d.SeriesNumber, d.AcquisitionNumber, d.InstanceNumber = series, v + 1, v * nz + z + 1
        d.SeriesDescription = d.ProtocolName = "cest"
        d.MagneticFieldStrength, d.ImagingFrequency, d.FlipAngle = field_t, frequency_mhz, flip_deg
        d.RepetitionTime, d.EchoTime, d.MRAcquisitionType = 5000, 10, "3D"
        d.ScanningSequence, d.SequenceVariant, d.ImageType = (
            "GR",
            "SK",
            ["ORIGINAL", "PRIMARY", kind],
        )
        d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3.0 * z]
        d.PixelSpacing, d.SliceThickness, d.Rows, d.Columns = [2, 2], 3, ny, nx
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.PixelData = data[:, :, z, v].T.astype("<u2").tobytes()
        d.save_as(folder / f"{series}_{v:02d}_{z:02d}.dcm", enforce_file_format=True)


def of_folder(arrays, folder, unsaid, *extra, **said):
    given = {k: v for k, v in SAID.items() if k not in unsaid} | said
    words = [word for pair in given.items() for word in pair]
    return tool("series", arrays / folder, arrays / "out", "--subject", "01", "--offsets",
                arrays / "offsets.txt", "--b1", arrays / "b1.txt", "--saturation-duration", 2.5,
                "--recovery", 1, *words, *extra)  # fmt: skip


def of_dicom(arrays, **said):
    unsaid = ("--field-t", "--frequency-mhz", "--flip-angle")
    return of_folder(arrays, "dicom", unsaid, **said)


def test_a_dicom_folder_answers_what_its_headers_say(arrays):
    data = np.random.default_rng(2).integers(1, 900, (6, 5, 2, 4))
    write_dicom(arrays / "dicom", data)
    done = of_dicom(arrays)
    assert done.returncode == 0, done.stderr
    image = nib.load(arrays / "out/sub-01/cest/sub-01_cest.nii.gz")
    np.testing.assert_array_equal(np.sort(image.get_fdata().ravel()), np.sort(data.ravel()))
    canonical = nib.as_closest_canonical(image).get_fdata()
    np.testing.assert_array_equal(canonical, data[::-1, ::-1])  # LPS to RAS
    fields = metadata(arrays / "out/sub-01/cest/sub-01_cest.nii.gz", arrays / "out")
    assert (fields["MagneticFieldStrength"], fields["SpectrometerFrequency"]) == (3, 123.25)
    assert fields["FlipAngle"] == 15
    table = read_context(arrays / "out/sub-01/cest/sub-01_cestcontext.tsv")
    assert table["saturation_offset"][1] == pytest.approx(1022 / 123.25)
    assert not validate(arrays / "out").errors


def test_a_dicom_folder_that_contradicts_or_holds_two_series(arrays):
    data = np.ones((6, 5, 2, 4))
    write_dicom(arrays / "dicom", data)
    done = of_dicom(arrays, **{"--frequency-mhz": 127.73})
    assert done.returncode == 2
    assert f"is 127.73, but ImagingFrequency in {arrays / 'dicom'} is 123.25" in done.stderr
    write_dicom(arrays / "dicom", data, series=2)
    done = of_dicom(arrays)
    assert (done.returncode, "holds 2 series" in done.stderr) == (2, True)
    assert not (arrays / "out").exists()


def test_phase_images_and_missing_slices_of_dicom_are_refused(arrays):
    write_dicom(arrays / "dicom", np.ones((6, 5, 2, 4)), kind="P")
    done = of_dicom(arrays)
    assert (done.returncode, "images of type P, not magnitudes" in done.stderr) == (2, True)
    shutil.rmtree(arrays / "dicom")
    write_dicom(arrays / "dicom", np.ones((6, 5, 2, 4)))
    sorted((arrays / "dicom").iterdir())[3].unlink()
    done = of_dicom(arrays)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert not (arrays / "out").exists()


def of_bruker(arrays, *extra, folder="5/pdata/1", **said):
    said = {"--field-t": 7} | said
    return of_folder(arrays, folder, ("--frequency-mhz", "--flip-angle"), *extra, **said)


@pytest.mark.parametrize("kind", ["series", "one slice"])
def test_a_bruker_reconstruction_is_scaled_and_answers_what_it_says(arrays, kind):
    data = np.random.default_rng(3).integers(1, 900, (6, 5, 2 if kind == "series" else 1, 4))
    write_bruker(arrays / "5/pdata/1", data, frequency_mhz=300.3)
    done = of_bruker(arrays)
    assert done.returncode == 0, done.stderr
    image = nib.load(arrays / "out/sub-01/cest/sub-01_cest.nii.gz")
    canonical = nib.as_closest_canonical(image).get_fdata()
    np.testing.assert_allclose(canonical, data[::-1, ::-1] * 0.5)  # slope; LPS to RAS
    np.testing.assert_allclose(image.affine[:3, 3], (4, 5, 0), atol=1e-6)
    np.testing.assert_allclose(image.header.get_zooms()[:3], (0.3, 0.3, 1.5), rtol=1e-6)
    fields = metadata(arrays / "out/sub-01/cest/sub-01_cest.nii.gz", arrays / "out")
    assert (fields["SpectrometerFrequency"], fields["FlipAngle"]) == (300.3, 15)
    assert not validate(arrays / "out").errors


def test_a_bruker_experiment_that_cannot_be_one_series(arrays):
    write_bruker(arrays / "5/pdata/1", np.ones((6, 5, 2, 4)))
    done = of_bruker(arrays, folder="5")
    assert (done.returncode, f"Give one of {arrays / '5/pdata/1'}" in done.stderr) == (2, True)
    done = of_bruker(arrays, **{"--frequency-mhz": 400})
    assert (done.returncode, "is 400, but ImagingFrequency in" in done.stderr) == (2, True)
    done = of_bruker(arrays, "--volume-axis", 3)
    assert (done.returncode, "--volume-axis would change nothing" in done.stderr) == (2, True)
    parameters = arrays / "5/pdata/1/visu_pars"
    whole = parameters.read_text()
    two = "(2, <FG_MOVIE>, <>, 2, 0) (2, <FG_ECHO>, <>, 2, 0)"
    groups = whole.replace("(4, <FG_MOVIE>, <>, 2, 0)", two)
    parameters.write_text(groups.replace("FGOrderDesc=( 2 )", "FGOrderDesc=( 3 )"))
    done = of_bruker(arrays)
    assert (done.returncode, "FG_MOVIE (2), FG_ECHO (2)" in done.stderr) == (2, True)
    for old, new, words in (
        ("MAGNITUDE_IMAGE", "PHASE_IMAGE", "holds PHASE_IMAGE, not magnitudes"),
        ("<mm> <mm>", "<m> <m>", "lengths in m, expected mm"),
        ("Frequency=300.3", "Frequency=0", "--frequency-mhz: the scanner frequency"),
        ("Frequency=300.3", "Frequency=-300.3", "--frequency-mhz: the scanner frequency"),
    ):
        parameters.write_text(whole.replace(old, new))
        done = of_bruker(arrays)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    parameters.write_text(whole.replace("VisuCoreSize", "VisuCoreNone"))
    done = of_bruker(arrays)
    assert (done.returncode, "cannot be read as a Bruker image" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
    assert not (arrays / "out").exists()


BAD = {
    "no voxel size": ({}, ("x.npy", "--volume-axis", 3), "without voxel size"),
    "no axis": ({}, ("x.npy", "--voxel-mm", 2, 2, 2), "has shape (5, 4, 3, 4), of which 4 axes"),
    "axis too far": ({}, ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 9), "axes 0 to 3"),
    "no file": ({}, ("none.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3), "No such file"),
    "text for an array": ({"t.npy": "hello"}, ("t.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3),
                          "cannot be read"),
    "words for numbers": ({"b1.txt": "two three"},
                          ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3), "as numbers"),
    "a number missing": ({"b1.txt": "2 nan 3"},
                         ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3),
                         "number 2 is not finite"),
    "decimal commas": ({"b1.txt": "2,5\n1,5\n3,5"},
                       ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3), "decimal commas"),
    "numbers too few": ({"b1.txt": "1 2"},
                        ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3), "3 offsets and 2 B1"),
    "rows for another series": ({"b1.txt": "1 2 3 4 5", "offsets.txt": "1 2 3 4 5"},
                                ("x.npy", "--voxel-mm", 2, 2, 2, "--volume-axis", 3),
                                "for 4 volumes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_words(arrays, case):
    files, (image, *extra), expected = BAD[case]
    for name, text in files.items():
        (arrays / name).write_text(text)
    words = [word for pair in SAID.items() for word in pair]
    done = tool("series", arrays / image, arrays / "out", "--subject", "01", "--offsets",
                arrays / "offsets.txt", "--b1", arrays / "b1.txt", "--saturation-duration", 2.5,
                "--recovery", 1, *words, *extra)  # fmt: skip
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not (arrays / "out").exists()
