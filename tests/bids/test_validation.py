"""Validation: what is valid passes, and each way to break a dataset gives the intended message."""

from __future__ import annotations

import ast
import gzip
import json
import shutil
from pathlib import Path

import commands
import nibabel as nib
import numpy as np
import pytest

from cestprep.bids import spec
from cestprep.bids.spec.examples import write_examples
from cestprep.bids.validation import official, validate

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SES = "sub-01/ses-01"
CEST = f"{SES}/cest/sub-01_ses-01"
MAP = f"{CEST}_acq-mt_space-cestref_model-bm2poolmt"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return write_examples(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("which", [0, 1], ids=["raw", "derivatives"])
@pytest.mark.parametrize("stock", [False, True], ids=["extended", "released"])
def test_examples_are_valid(examples, which, stock):
    report = validate(examples[which], stock=stock)
    assert report.official
    assert not report.errors


def fields(name, **changes):
    """Change fields of a sidecar; None takes one away."""

    def change(root):
        path = root / name
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def replaced(name, old, new, count=-1):
    def change(root):
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, count))

    return change


def moved(old, new):
    def change(root):
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return change


def removed(name):
    return lambda root: (root / name).unlink()


def values(name, change):
    """Change the values of an image."""

    def write(root):
        image = nib.load(root / name)
        data = change(image.get_fdata(dtype=np.float32))
        nib.save(nib.Nifti1Image(data.astype(np.float32), image.affine), root / name)

    return write


def header(name, unit):
    """Give lengths another unit."""

    def write(root):
        image = nib.load(root / name)
        image = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
        image.header.set_xyzt_units(unit, "sec")
        nib.save(image, root / name)

    return write


def shorten(path):
    """Leave the last values of an image out."""
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:-40]))


def folder_for(path):
    path.unlink()
    path.mkdir()


def misplaced_fields(root):
    """A field map with a magnitude of another place."""
    image = nib.load(root / f"{CEST}_acq-mt_cest.nii.gz")
    one = np.ones(image.shape[:3], np.float32)
    for suffix, affine in (("fieldmap", image.affine), ("magnitude", 2 * image.affine)):
        nib.save(nib.Nifti1Image(one, affine), root / f"{SES}/fmap/sub-01_ses-01_{suffix}.nii.gz")
    about = {"Units": "Hz", "MagneticFieldStrength": 3}
    (root / f"{SES}/fmap/sub-01_ses-01_fieldmap.json").write_text(json.dumps(about))


def scaled(name, factor):
    def change(root):
        image = nib.load(root / name)
        nib.save(nib.Nifti1Image(image.get_fdata() * factor, image.affine), root / name)

    return change


def placed(name, affine):
    def change(root):
        image = nib.load(root / name)
        data = np.asarray(image.dataobj)
        made = nib.Nifti1Image(data, None)
        made.header.set_sform(affine, 1)
        made.header.set_xyzt_units("mm", "sec")
        nib.save(made, root / name)

    return change


def all_of(*changes):
    def change(root):
        for one in changes:
            one(root)

    return change


MT, TABLE = "acq-mt_cest.json", "acq-mt_cestcontext.tsv"
SEQ = f"{CEST}_acq-mt_cest.seq"
#: What is broken: change, rule, file, words of the message.
RAW = {
    "field strength missing": (
        fields(MT, MagneticFieldStrength=None), "SIDECAR_KEY_REQUIRED MagneticFieldStrength",
        "acq-mt_cest.nii.gz", ""),
    "M0Type misspelt": (fields(MT, M0Type="included"), "JSON_SCHEMA", MT, "M0Type"),
    "M0Type missing": (fields(MT, M0Type=None), "SIDECAR_KEY_REQUIRED M0Type", "acq-mt", ""),
    "B1 undefined": (
        fields(MT, SaturationB1Definition=None), "SIDECAR_KEY_REQUIRED SaturationB1Definition",
        "acq-mt_cest.nii.gz", ""),
    "B1 of another kind": (fields(MT, SaturationB1Definition="power"), "JSON_SCHEMA", MT, ""),
    "acquisition type unknown": (fields(MT, CESTAcquisitionType="APT"), "JSON_SCHEMA", MT, ""),
    "table missing": (removed(TABLE), "CEST_CONTEXT_MISSING", "acq-mt_cest.nii.gz", ""),
    "column missing": (
        replaced(TABLE, "saturation_b1", "b1"), "TSV_COLUMN_MISSING saturation_b1", TABLE, ""),
    "volume type misspelt": (
        replaced(TABLE, "saturated", "sat", 1), "TSV_VALUE_INCORRECT_TYPE", TABLE, ""),
    "offset with its unit": (
        replaced(TABLE, "\t8.0\t", "\t8ppm\t"), "TSV_VALUE_INCORRECT_TYPE", TABLE, ""),
    "row too few": (
        lambda r: (r / TABLE).write_text("".join((r / TABLE).read_text().splitlines(True)[:-1])),
        "CEST_CONTEXT_TSV_NOT_CONSISTENT", "acq-mt_cest.nii.gz", "5 volumes, but"),
    "M0 row called saturated": (
        replaced(TABLE, "m0scan", "saturated"), "CEST_CONTEXT_UNDEFINED", TABLE, "row 1"),
    "no M0 row": (
        replaced(TABLE, "m0scan\tn/a\t0\t0", "saturated\t9\t1\t2.5"), "CEST_M0TYPE_INCORRECT",
        TABLE, "'Included'"),
    "M0 row although absent": (
        fields(MT, M0Type="Absent"), "CEST_M0TYPE_INCORRECT", TABLE, "'Absent'"),
    "M0 in another file that is not there": (
        fields(MT, M0Type="Separate"), "CEST_M0SCAN_MISSING", "acq-mt_cest.nii.gz", ""),
    "nothing saturated": (
        replaced(TABLE, "saturated", "noRF"), "CEST_CONTEXT_WITHOUT_SATURATED", TABLE, ""),
    "offsets in Hz": (
        replaced(TABLE, "\t8.0\t", "\t1021.8\t"), "CEST_CONTEXT_UNIT", TABLE, "Hz perhaps"),
    "B1 in T": (replaced(TABLE, "\t2.0\t", "\t2e-6\t"), "CEST_CONTEXT_UNIT", TABLE, "T, nT"),
    "column nobody defined": (
        lambda r: (r / TABLE).write_text(
            "\n".join(x + ("\tnote" if i == 0 else "\t1")
                      for i, x in enumerate((r / TABLE).read_text().splitlines())) + "\n"),
        "TSV_ADDITIONAL_COLUMNS", TABLE, ""),
    "neither pulses nor sequence": (
        all_of(removed(SEQ), fields(MT, MTNumberOfPulses=None)), "CEST_SATURATION_MODULE_UNDEFINED",
        "acq-mt_cest.nii.gz", ""),
    "train without delay": (
        all_of(removed(SEQ), fields(MT, MTNumberOfPulses=5)),
        "SIDECAR_KEY_REQUIRED SaturationPulseDelay", "acq-mt_cest.nii.gz", ""),
    "sequence of another B1": (
        replaced(TABLE, "\t2.0\t", "\t2.2\t"), "PULSEQ_NOT_CONSISTENT", SEQ,
        "row 2: saturation_b1 is 2.2 uT, the file plays 2 uT"),
    "sequence of other offsets": (
        all_of(replaced(TABLE, "\t8.0\t", "\t8.01\t"), replaced(TABLE, "\t6.0\t", "\t6.01\t")),
        "PULSEQ_NOT_CONSISTENT", SEQ, "the file plays 8 ppm (and 1 more rows)"),
    "sequence of another length": (
        replaced(TABLE, "\t2.5\t", "\t2.6\t"), "PULSEQ_NOT_CONSISTENT", SEQ, "plays 2.5 s"),
    "sequence with other waits": (
        replaced(TABLE, "\t1.0\n", "\t1.5\n"), "PULSEQ_NOT_CONSISTENT", SEQ, "the file waits 1 s"),
    "sequence without tips": (
        fields(MT, SaturationSpinLock=True), "PULSEQ_NOT_CONSISTENT", SEQ, "plays no tips"),
    "sequence that is none": (
        lambda r: (r / SEQ).write_text("[VERSION]\n"), "PULSEQ_UNUSABLE", SEQ, "cannot be used"),
    "sequence elsewhere that is missing": (
        all_of(removed(SEQ), fields(MT, PulseqFile="bids::code/mt.seq")), "PULSEQ_UNUSABLE",
        "acq-mt_cest.nii.gz", "names no file"),
    "frequency of another field": (
        fields(MT, SpectrometerFrequency=298.03), "FREQUENCY_NOT_CONSISTENT", "acq-mt", "at 3 T"),
    "a T2 time short": (
        fields(f"{SES}/anat/sub-01_ses-01_T2PREP.json", T2PreparationTime=[0, 0.1]),
        "T2_PREPARATION_TIME_NOT_MATCHING", "T2PREP", ""),
    "no recovery times": (
        fields(f"{SES}/anat/sub-01_ses-01_SRT1.json", SaturationRecoveryTime=None),
        "SIDECAR_KEY_REQUIRED SaturationRecoveryTime", "SRT1", ""),
    "suffix misspelt": (
        moved(f"{CEST}_acq-mt_cest.nii.gz", f"{CEST}_acq-mt_CEST.nii.gz"), "", "CEST.nii.gz", ""),
    "entities out of order": (
        moved(f"{CEST}_acq-mt_cest.nii.gz", f"{SES}/cest/sub-01_acq-mt_ses-01_cest.nii.gz"), "",
        "sub-01_acq-mt_ses-01", ""),
    "WASABI among the series": (
        moved(f"{SES}/fmap/sub-01_ses-01_WASABI.nii.gz", f"{CEST}_WASABI.nii.gz"),
        "", "WASABI", ""),
    "table for everything": (
        lambda r: shutil.copy(r / TABLE, r / "cestcontext.tsv"), "MULTIPLE_INHERITABLE", "", ""),
    "WASABI on one side": (
        replaced(f"{SES}/fmap/sub-01_ses-01_cestcontext.tsv", "\t-", "\t"), "WASABI_SPAN",
        "fmap/sub-01_ses-01_cestcontext.tsv", "both sides of water"),
    "image without place": (
        placed(f"{CEST}_acq-mt_cest.nii.gz", np.diag([0.0, 2, 2, 1])), "IMAGE_UNUSABLE",
        "acq-mt_cest.nii.gz", "singular"),
    "image cut off": (
        lambda r: (r / f"{CEST}_acq-mt_cest.nii.gz").write_bytes(b"\x1f\x8b"), "", "acq-mt", ""),
    "image cut short": (
        lambda r: shorten(r / f"{CEST}_acq-mt_cest.nii.gz"), "IMAGE_UNUSABLE", "acq-mt", ""),
    "lengths in metres": (
        header(f"{CEST}_acq-mt_cest.nii.gz", "meter"), "IMAGE_UNUSABLE", "acq-mt", "in meter"),
    "a volume of zeros": (
        values(f"{CEST}_acq-mt_cest.nii.gz", lambda d: d * (np.arange(d.shape[3]) != 2)),
        "CEST_NO_SIGNAL", "acq-mt", "1 of 5 volumes hold no signal, the first is 3"),
    "phase": (
        values(f"{CEST}_acq-mt_cest.nii.gz", lambda d: d * np.linspace(-1, 2, d.shape[3])),
        "CEST_NOT_MAGNITUDE", "acq-mt", "no magnitudes"),
    "nothing played in a saturated row": (
        replaced(TABLE, "\t2.5\t", "\t0\t"), "CEST_CONTEXT_UNDEFINED", TABLE, "row 2"),
    "no recovery": (
        all_of(removed(SEQ), replaced(TABLE, "\t1.0\n", "\tn/a\n")), "CEST_NOT_SIMULATED", TABLE,
        "recovery_time is n/a"),
    "pulses that do not fill the table's duration": (
        all_of(removed(SEQ), fields(MT, MTNumberOfPulses=5, SaturationPulseDelay=0.1,
                                    SaturationSpinLock=False)),
        "CEST_NOT_SIMULATED", TABLE, "take 12.9 s"),
    "shape that needs its sequence": (
        all_of(removed(SEQ), fields(MT, MTPulseShape="GAUSSIAN")), "CEST_NOT_SIMULATED", "acq-mt",
        "only HARD"),
    "frequency of zero": (
        fields(MT, SpectrometerFrequency=0), "CEST_NOT_SIMULATED", "acq-mt", "is 0, so ppm"),
    "sequence of another field": (
        replaced(SEQ, "FREQ 127.73", "FREQ 298.0"), "PULSEQ_NOT_CONSISTENT", SEQ,
        "is written for 298 MHz"),
    "sequence named beyond all names": (
        all_of(removed(SEQ), fields(MT, PulseqFile="bids::" + 5000 * "x")), "PULSEQ_UNUSABLE",
        "acq-mt", "names no file"),
    "sequence of absurd numbers": (
        replaced(SEQ, "[RF]", "[RF]\n9 1e308" + 5000 * "9"),
        "PULSEQ_UNUSABLE", SEQ, "cannot be used"),
    "series hidden by the owner": (
        all_of(lambda r: (r / ".bidsignore").write_text("*_cest*\n"), fields(MT, M0Type=None)),
        "SIDECAR_KEY_REQUIRED M0Type", "acq-mt", ""),
    "sidecar of null": (lambda r: (r / MT).write_text("null"), "", "acq-mt", ""),
    "folder for an image": (
        lambda r: folder_for(r / f"{CEST}_acq-mt_cest.nii.gz"), "", "acq-mt_cest.nii.gz", ""),
    "name that is no text": (
        lambda r: (r / f"{SES}/cest/sub-01_\udcff_cest.nii.gz").write_bytes(b""), "", "", ""),
    "magnitude elsewhere": (
        lambda r: misplaced_fields(r), "GRID_NOT_CONSISTENT", "magnitude", "of its field map"),
    "3D series": (
        lambda r: nib.save(nib.load(r / f"{SES}/anat/sub-01_ses-01_T1w.nii.gz"),
                           r / f"{CEST}_acq-mt_cest.nii.gz"),
        "CEST_SERIES_NOT_4D", "acq-mt_cest.nii.gz", ""),
    "no description": (
        removed("dataset_description.json"), "MISSING_DATASET_DESCRIPTION", "", ""),
}  # fmt: skip
DERIVATIVES = {
    "map without unit": (
        fields(f"{MAP}_param-fss_desc-psvae_cestmap.json", Units=None),
        "SIDECAR_KEY_REQUIRED Units", "param-fss_desc-psvae_cestmap.nii.gz", ""),
    "map without model": (
        fields(f"{MAP}_param-fss_desc-psvae_cestmap.json", Model=None),
        "SIDECAR_KEY_REQUIRED Model", "param-fss_desc-psvae_cestmap.nii.gz", ""),
    "unknown mode": (
        fields(f"{MAP}_param-fss_desc-psvae_cestmap.json", Estimator={"Name": "a", "Mode": "b"}),
        "JSON_SCHEMA", "param-fss", "Estimator"),
    "bound without level": (
        fields(f"{MAP}_param-fss_stat-cilower_desc-psvae_cestmap.json", CredibleLevel=None),
        "SIDECAR_KEY_REQUIRED CredibleLevel", "cilower", ""),
    "covariance without labels": (
        fields(f"{MAP}_stat-cov_desc-psvae_cestmap.json", VolumeLabels=None),
        "SIDECAR_KEY_REQUIRED VolumeLabels", "stat-cov", ""),
    "covariance with a label": (
        fields(f"{MAP}_stat-cov_desc-psvae_cestmap.json", VolumeLabels=["a"]),
        "VOLUME_LABELS_NOT_MATCHING", "stat-cov", ""),
    "no reference": (
        fields(f"{MAP}_param-fss_desc-psvae_cestmap.json", SpatialReference=None),
        "SIDECAR_KEY_REQUIRED SpatialReference", "param-fss", ""),
    "field map alone": (
        removed(f"{SES}/fmap/sub-01_ses-01_space-cestref_magnitude.nii.gz"), "FIELDMAP_WITHOUT",
        "fieldmap", ""),
    "transform from nowhere": (
        moved(f"{CEST}_from-cestref_to-T1w_mode-image_desc-coreg_xfm.txt",
              f"{CEST}_to-T1w_mode-image_desc-coreg_xfm.txt"), "", "xfm.txt", ""),
    "T1 in ms": (
        scaled(f"{SES}/anat/sub-01_ses-01_space-cestref_T1map.nii.gz", 1000), "MAP_UNITS",
        "T1map", "no plausible T1"),
    "T2 in ms and said so": (
        fields(f"{SES}/anat/sub-01_ses-01_space-cestref_T2map.json", Units="ms"), "MAP_UNITS",
        "T2map", "expected s"),
    "T1 of zeros": (
        scaled(f"{SES}/anat/sub-01_ses-01_space-cestref_T1map.nii.gz", 0), "MAP_EMPTY", "T1map",
        "no value"),
    "B0 of NaN": (
        scaled(f"{SES}/fmap/sub-01_ses-01_space-cestref_fieldmap.nii.gz", np.nan), "MAP_EMPTY",
        "fieldmap", ""),
    "preprocessed series with another table": (
        values(f"{CEST}_acq-mt_space-cestref_desc-preproc_cest.nii.gz", lambda d: d[..., 1:]),
        "CEST_CONTEXT_TSV_NOT_CONSISTENT", "desc-preproc", "4 volumes, but"),
    "reference on another grid": (
        placed(f"{CEST}_desc-coreg_cestref.nii.gz", np.diag([3.0, 2, 2, 1])),
        "GRID_NOT_CONSISTENT", "param-fss", "of sub-01_ses-01_desc-coreg_cestref.nii.gz: voxels"),
    "B1 as a factor": (
        scaled(f"{SES}/fmap/sub-01_ses-01_space-cestref_TB1map.nii.gz", 0.01), "MAP_UNITS",
        "TB1map", "no plausible B1"),
    "map on another grid": (
        placed(f"{MAP}_param-fss_desc-psvae_cestmap.nii.gz", np.diag([3.0, 2, 2, 1])),
        "GRID_NOT_CONSISTENT", "param-fss_desc-psvae_cestmap.nii.gz", "not on the grid"),
    "network without estimator": (
        fields(f"{CEST}_acq-mt_model-bm2poolmt_desc-psvae_network.json", Estimator=None),
        "SIDECAR_KEY_REQUIRED Estimator", "network", ""),
}  # fmt: skip
CASES = [(0, name, case) for name, case in RAW.items()]
CASES += [(1, name, case) for name, case in DERIVATIVES.items()]


def broken(examples, which, change, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(examples[which], root)
    change(root)
    return validate(root).errors


@pytest.mark.parametrize(
    ("which", "case"), [(w, c) for w, _, c in CASES], ids=[name for _, name, _ in CASES]
)
def test_every_breakage_is_named(examples, which, case, tmp_path):
    change, rule, file, words = case
    errors = broken(examples, which, change, tmp_path)
    hits = [e for e in errors if e.rule.startswith(rule) and file in e.file and words in str(e)]
    assert hits, [str(e)[:200] for e in errors]
    assert all(e.mend for e in errors)


def test_maps_of_another_grid_than_the_series_are_warned_of(examples, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(examples[0], root)
    series = nib.load(root / f"{CEST}_acq-mt_cest.nii.gz")
    image = nib.Nifti1Image(np.ones(series.shape[:3], np.float32), 2 * series.affine)
    nib.save(image, root / f"{SES}/anat/sub-01_ses-01_T1map.nii.gz")
    report = validate(root)
    assert not report.errors
    assert any(w.rule == "GRID_DIFFERS" and "T1map" in w.file for w in report.warnings)


def test_what_is_only_recommended_but_simulated_is_a_warning(examples, tmp_path):
    root = tmp_path / "dataset"
    shutil.copytree(examples[0], root)
    fields(MT, FlipAngle=None, SpectrometerFrequency=None)(root)
    report = validate(root)
    assert not report.errors
    said = [w.what for w in report.warnings if w.rule == "CEST_NOT_SIMULATED"]
    assert [text.split()[0] for text in said] == ["SpectrometerFrequency", "FlipAngle"]


def test_a_sequence_of_another_frequency_is_remarked(examples, tmp_path):
    """Hz count, so ppm are others than its writer had."""
    root = tmp_path / "dataset"
    shutil.copytree(examples[0], root)
    replaced(SEQ, "FREQ 127.73", "FREQ 123")(root)
    report = validate(root)
    assert not report.errors
    assert any("written for 123 MHz" in w.what for w in report.warnings)


PURE = ("field strength missing", "row too few", "sequence of another B1", "suffix misspelt",
        "M0Type missing", "neither pulses nor sequence", "map without unit", "T1 in ms",
        "no recovery times", "no description", "table missing", "column missing",
        "acquisition type unknown", "sidecar of null")  # fmt: skip


@pytest.mark.parametrize("name", PURE)
def test_without_the_extra_most_is_still_seen(examples, name, tmp_path, monkeypatch):
    monkeypatch.setattr(official, "program", lambda: None)
    which, _, (change, _, file, _) = next(c for c in CASES if c[1] == name)
    assert not validate(examples[which]).errors
    report = broken(examples, which, change, tmp_path)
    assert any(file in e.file for e in report), [str(e)[:200] for e in report]


def tool(*arguments):
    return commands.tool("validate", *arguments)


def test_the_command(examples, tmp_path):
    done = tool(examples[0])
    assert (done.returncode, "0 errors" in done.stdout) == (0, True)
    root = tmp_path / "dataset"
    shutil.copytree(examples[0], root)
    (root / TABLE).unlink()
    done = tool(root, "--json")
    assert done.returncode == 1
    content = json.loads(done.stdout)
    assert content["official"] is True
    found = [f for f in content["findings"] if f["severity"] == "error"]
    assert {"file", "rule", "what", "mend", "severity"} == set(found[0])
    done = tool(tmp_path / "nowhere")
    assert (done.returncode, "is not a folder" in done.stderr) == (2, True)
    done = tool(tmp_path)
    assert (done.returncode, "holds neither" in done.stderr) == (2, True)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="needs the real scans in ../shared")
@pytest.mark.parametrize("name", ["mice7t", "larg3t", "larg9t4"])
def test_real_data_are_valid(name):
    assert not validate(SHARED / name).errors


def test_terms_come_from_the_spec():
    """No module but the spec spells the suffixes of CEST-BIDS."""
    terms = {spec.SERIES, spec.CONTEXT, spec.MAP, spec.REFERENCE, spec.NETWORK, *spec.PREPARED}
    terms |= {*spec.MAP_SUFFIXES.values(), spec.QUALITY, spec.MAGNITUDE, spec.SEGMENTATION}
    package = Path(spec.__file__).resolve().parents[2]
    found = {}
    for path in sorted((package / "bids").rglob("*.py")):
        if "spec" not in path.parts:
            tree = ast.walk(ast.parse(path.read_text()))
            words = {n.value for n in tree if isinstance(n, ast.Constant)}
            found[path.name] = sorted(terms & {w for w in words if isinstance(w, str)})
    found = {name: words for name, words in found.items() if words}
    assert not found
