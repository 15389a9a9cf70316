"""``cestprep-tools simulate``: table, sidecar and figure; bad input; nothing left behind."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

from cestprep.cli import tools
from cestprep.physics.protocol import Protocol, Pulse, Readout, Recovery, Saturation, Spoil
from cestprep.physics.pulseq import parse
from cestprep.physics.pulseq_pools import read_pools
from cestprep.physics.pulseq_protocol import (
    Conventions,
    idealised,
    prepared,
    protocol_of,
    simplified,
)
from cestprep.physics.simulate import signal
from cestprep.physics.waveforms import Waveform

ROOT = Path(__file__).resolve().parents[1]
MHZ = 127.7292
HZ_PER_UT = 42.5764
POOLS = """\
water_pool: {f: 1.0, t1: 1.3, t2: 0.075}
cest_pool:
  amide: {f: 0.002, t1: 1.3, t2: 0.02, k: 120, dw: 3.5}
b0: 3
gamma: 267.5154
"""
#: Volumes: recovery (s), offset (ppm), B1 (uT), pulses (s, s, ...), delay (s).
VOLUMES = (
    (0.0, -300.0, 2.0, (0.2,), 0.0),
    (0.5, 3.5, 2.0, (0.2,), 0.0),
    (0.5, -0.00001, 1.0, (0.2,), 0.0),
    (0.5, -3.5, 2.0, (0.1, 0.1), 0.01),
    (0.5, 0.0, 0.0, (), 0.0),
)


def sequence(volumes=VOLUMES, definitions=f"FREQ {MHZ}"):
    """Text of a Pulseq 1.4 file: rectangular trains, each with spoiler and readout."""
    blocks, rfs, shapes = [], [], {}

    def add(duration_s, events):
        blocks.append(f"{len(blocks) + 1} {round(duration_s * 1e5)} {events} 0")

    for recovery, offset, b1, pulses, delay in volumes:
        if recovery:
            add(recovery, "0 0 0 0 0")
        for i, pulse in enumerate(pulses):
            shape = shapes.setdefault(pulse, len(shapes) + 1)
            number = len(rfs) + 1
            rfs.append(f"{number} {b1 * HZ_PER_UT} {shape} 0 0 0 {offset * MHZ} 0")
            add(pulse, f"{number} 0 0 0 0")
            if i < len(pulses) - 1:
                add(delay, "0 0 0 0 0")
        add(0.005, "0 0 0 1 0")
        add(0.001, "0 0 0 0 1")
    samples = {shape: round(pulse * 1e6) for pulse, shape in shapes.items()}
    parts = {
        "VERSION": "major 1\nminor 4\nrevision 0",
        "DEFINITIONS": definitions,
        "BLOCKS": "\n".join(blocks),
        "RF": "\n".join(rfs),
        "TRAP": "1 1e6 500 4000 500 0",
        "ADC": "1 1 1000 0 0 0",
        "SHAPES": "".join(
            f"\nshape_id {i}\nnum_samples {n}\n1\n0\n0\n{n - 3}\n" for i, n in samples.items()
        ),
    }
    return "".join(f"[{name}]\n{body}\n\n" for name, body in parts.items())


@pytest.fixture
def files(tmp_path):
    (tmp_path / "small.seq").write_text(sequence())
    (tmp_path / "small.yaml").write_text(POOLS)
    return tmp_path


def call(capsys, *arguments):
    """Exit code, output and errors of the program, in this process."""
    try:
        code = tools.main(["simulate", *map(str, arguments)])
    except SystemExit as exc:
        code = exc.code
    return code, *capsys.readouterr()


def simulate(capsys, folder, *options, name="small"):
    """Rows of the table and content of the sidecar."""
    out = folder / "out.tsv"
    inputs = folder / f"{name}.seq", folder / f"{name}.yaml"
    code, said, err = call(capsys, *inputs, "--out", out, "--device", "cpu", *options)
    assert code == 0, err
    rows = list(csv.DictReader(out.open(), delimiter="\t"))
    return rows, json.loads((folder / "out.json").read_text()), said


def mz(rows):
    return np.array([float(row["mz"]) for row in rows])


def played(protocol, pools, solver="general"):
    """Signal of one voxel in float64."""
    with jax.enable_x64(True):
        p = {k: np.array([v]) for k, v in pools.parameters.items()}
        run = jax.jit(lambda q: signal(protocol, pools.model, q, solver=solver))
        return np.asarray(run(p))[:, 0]


def test_table_and_sidecar(files, capsys):
    rows, sidecar, said = simulate(capsys, files, "--solver", "general")
    pools = read_pools(yaml.safe_load(POOLS))
    want = played(protocol_of(parse(sequence()), pools.frequency_mhz, pools.reset), pools)
    np.testing.assert_allclose(mz(rows), want, atol=1e-9, rtol=0)
    offsets = [row["offset_ppm"] for row in rows]
    assert offsets == ["-300.0000", "3.5000", "0.0000", "-3.5000", "n/a"]
    assert (files / "out.tsv").read_text().startswith("offset_ppm\tmz\n-300.0000\t0.9")
    assert all(len(row["mz"].split(".")[1]) == 9 for row in rows)
    assert sidecar["offset_ppm"]["Units"] == "ppm"
    assert sidecar["SequenceFile"] == "small.seq"
    assert sidecar["PulseqVersion"] == "1.4.0"
    assert (sidecar["Solver"], sidecar["Precision"]) == ("general", "double")
    assert sidecar["Parameters"]["amide.k_exchange"] == {"Value": 120.0, "Units": "1/s"}
    assert sidecar["OffsetFrequency"] == {"Value": MHZ, "Units": "MHz"}
    train = sidecar["Trains"][1]
    assert (train["NumberOfPulses"], train["PulseDuration"], train["PulseDelay"]) == (2, 0.1, 0.01)
    assert train["B1"]["cwpe"][0] == pytest.approx(2 * np.sqrt(0.2 / 0.21), abs=1e-5)
    assert train["PostPreparationDelay"] == 0.005
    assert str(files) not in json.dumps(sidecar)
    for text in ("Pulseq 1.4.0, 5 volumes", "127.7292 MHz", "amide  0.002", "2 x 100 ms", "no RF"):
        assert text in said


def test_offsets_are_of_the_sequence(files, capsys):
    rows, sidecar, said = simulate(capsys, files, "--frequency", 2 * MHZ)
    assert rows[1]["offset_ppm"] == "3.5000"
    assert sidecar["ScannerFrequency"]["Value"] == 2 * MHZ
    assert "Warning: written for 127.729 MHz, simulated at 255.458 MHz" in said


def test_offsets_without_a_frequency_are_of_the_simulation(files, capsys):
    (files / "small.seq").write_text(sequence(definitions="seq_id_string x"))
    rows, _, _ = simulate(capsys, files, "--frequency", 2 * MHZ)
    assert rows[1]["offset_ppm"] == "1.7500"


def test_contradicted_definitions_are_warnings(files, capsys):
    (files / "small.seq").write_text(sequence(definitions="B0 3\nB1 3.7\nnum_meas 7"))
    _, sidecar, said = simulate(capsys, files)
    assert "Warning: num_meas is 7, but there are 5 readouts" in said
    assert any(warning.startswith("B1 is 3.7 uT") for warning in sidecar["Warnings"])


def test_start_of_volumes(files, capsys):
    (files / "small.yaml").write_text(POOLS + "scale: 0.5\n")
    reset, sidecar, said = simulate(capsys, files)
    assert sidecar["Conventions"]["ResetMagnetization"] == 0.5
    assert "every volume from 0.5 times equilibrium" in said
    carried, sidecar, _ = simulate(capsys, files, "--continuous")
    assert sidecar["Conventions"]["ResetMagnetization"] is None
    assert abs(mz(reset) - mz(carried)).min() > 0.01
    # -300 ppm does nothing: 0.205 s of recovery from one half
    assert mz(reset)[0] == pytest.approx(1 - 0.5 * np.exp(-0.205 / 1.3), abs=2e-3)
    (files / "small.yaml").write_text(POOLS + "reset_init_mag: false\nscale: 0.5\n")
    again, _, _ = simulate(capsys, files, "--reset")
    np.testing.assert_array_equal(mz(again), mz(reset))


def test_conventions_reach_the_simulation(files, capsys):
    pools = read_pools(yaml.safe_load(POOLS))
    options = ("--dead-time", "300", "--ringdown", "200", "--carrier-phase", "whole-degrees")
    rows, sidecar, _ = simulate(capsys, files, *options, "--phase-sign", "conjugate")
    conventions = Conventions("conjugate", "whole_degrees", 3e-4, 2e-4)
    protocol = protocol_of(parse(sequence()), pools.frequency_mhz, 1.0, conventions)
    np.testing.assert_allclose(mz(rows), played(protocol, pools), atol=1e-7, rtol=0)
    assert sidecar["Conventions"]["DeadTime"] == {"Value": 3e-4, "Units": "s"}
    assert sidecar["Conventions"]["CarrierPhase"] == "whole-degrees"


def test_precision(files, capsys):
    double, _, _ = simulate(capsys, files)
    single, sidecar, _ = simulate(capsys, files, "--precision", "single")
    assert sidecar["Precision"] == "single"
    assert 0 < abs(mz(double) - mz(single)).max() < 1e-4


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figure(files, capsys, ending):
    plot = files / f"figure.{ending}"
    simulate(capsys, files, "--plot", plot)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert plot.read_bytes().startswith(starts[ending])


def test_unsuitable_solver_is_an_error_in_words(files, capsys):
    check_refused(capsys, files, ["--solver isar2: isar2 "], "--solver", "isar2")


def test_solvers(files, capsys):
    """Without the spectrum's centre ``reduced`` is chosen; asked for elsewhere it says so."""
    (files / "small.yaml").write_text(POOLS.replace("t2: 0.075", "t2: 0.03"))
    far = [v for v in VOLUMES if abs(v[1]) > 1 and len(v[3]) == 1]
    (files / "small.seq").write_text(sequence(far))
    general, sidecar, _ = simulate(capsys, files, "--solver", "general")
    reduced, other, said = simulate(capsys, files)
    assert (sidecar["Solver"], other["Solver"]) == ("general", "reduced")
    assert "reduced (chosen: within 1e-4 of general here)" in said
    np.testing.assert_allclose(mz(reduced), mz(general), atol=1e-4, rtol=0)
    (files / "small.seq").write_text(sequence(VOLUMES[:3]))
    assert "general (chosen: reduced may be" in simulate(capsys, files)[2]
    _, sidecar, said = simulate(capsys, files, "--solver", "reduced")
    assert "Warning: reduced may be more than 1e-4 off" in said
    assert any("reduced may be" in warning for warning in sidecar["Warnings"])


def test_isar2_where_volumes_start_from_equilibrium(files, capsys):
    far = [v for v in VOLUMES if abs(v[1]) > 1 and len(v[3]) == 1]
    (files / "small.seq").write_text(sequence(far))
    general, _, _ = simulate(capsys, files, "--reset")
    rough, sidecar, _ = simulate(capsys, files, "--reset", "--solver", "isar2")
    assert any("isar2 is an approximation" in warning for warning in sidecar["Warnings"])
    assert 0 < abs(mz(rough) - mz(general)).max() < 0.1


def test_sidecar_says_what_each_row_was_measured_with(files, capsys):
    _, sidecar, _ = simulate(capsys, files)
    rows = sidecar["Volumes"]
    waits = [r["RecoveryTime"] for r in rows]  # with the readout's few ms
    assert waits == pytest.approx([v[0] for v in VOLUMES], abs=0.01)
    assert [r.get("NumberOfPulses", 0) for r in rows] == [len(v[3]) for v in VOLUMES]
    played = [r["B1"]["peak"] for r in rows if "B1" in r]
    assert played == pytest.approx([v[2] for v in VOLUMES if v[3]], abs=1e-3)


def test_unequal_pulses_are_counted(files, capsys):
    (files / "small.seq").write_text(sequence([(0.5, 3.5, 2.0, (0.2, 0.1), 0.01)]))
    _, sidecar, said = simulate(capsys, files)
    assert "1 x 200 ms + 1 other" in said
    assert sidecar["Trains"][0]["NumberOfOtherPulses"] == 1


ALIASES = "a: &a {f: 1}\nb: &b [*a, *a]\nc: [*b, *b]\n"
BAD_POOLS = {
    "empty": ("", ["is empty"]),
    "binary": (b"\x00\xff\xfe", ["is not UTF-8 text (byte 2)"]),
    "control characters": (b"\x00\x01", ["is not valid YAML"]),
    "syntax": ("water_pool: {f: 1\nb0: 3\nc: [", ["is not valid YAML: line 2"]),
    "deep": ("[" * 20000, ["is not valid YAML"]),
    "date": ("b0: 2001-99-99", ["is not valid YAML: month"]),
    "aliases": (ALIASES, ["is not valid YAML: line 2: alias *a"]),
    "repeated key": (POOLS + "b0: 7\n", ["line 6: key 'b0' appears twice"]),
    "tag": ("a: !!python/object:os.system x", ["could not determine a constructor"]),
    "list": ("- 1", ["expected a mapping"]),
    "several": (
        POOLS.replace("k: 120", "k: -1").replace("t1: 1.3, t2: 0.075", "t1: 1.3"),
        ["water_pool.t2: missing. Correct", "cest_pool.amide.k: expected at least 0"],
    ),
    "rate": (POOLS.replace("k: 120", "k: 1e308"), ["k_exchange is 1e+308 1/s, which cannot"]),
    "time": (POOLS.replace("t2: 0.02", "t2: 1e-300"), ["amide.t2 is 1e-300 s, which cannot"]),
    "shift": (POOLS.replace("dw: 3.5", "dw: 1e300"), ["amide.offset_ppm is 1e+300 ppm"]),
    "field": (POOLS.replace("b0: 3", "b0: 1e300"), ["MHz, expected 1 to 10000"]),
    "huge": ("#" * 100_001, ["is larger than 0.1 MB"]),
    "milliseconds": (POOLS.replace("t1: 1.3", "t1: 1300"), ["t1 is 1300 s, which cannot be meant"]),
    "infinite": (POOLS.replace("t1: 1.3", "r1: 1.0e-320"), ["t1 is inf s, which cannot be meant"]),
    "odd timestamp": ("b0: !!timestamp x", ["is not valid YAML"]),
    "odd bool": ("b0: !!bool x", ["is not valid YAML"]),
    "odd int": ("b0: !!int ''", ["is not valid YAML"]),
    "base 60": ("b0: " + "1:" * 300 + "1.5", ["is not valid YAML"]),
    "equal keys": ("1: a\n0x1: b\n", ["key '0x1' appears twice"]),
    "crowd": (
        POOLS.replace(
            "cest_pool:\n",
            "cest_pool:\n"
            + "".join(f"  p{i}: {{f: 0.001, t1: 1, t2: 0.02, k: 9, dw: 2}}\n" for i in range(30)),
        ),
        ["has 31 pools besides water"],
    ),
}


@pytest.mark.parametrize(("content", "says"), BAD_POOLS.values(), ids=BAD_POOLS)
def test_bad_pools(files, capsys, content, says):
    path = files / "small.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(capsys, files, says)


SEQUENCE = sequence()
BAD_SEQUENCES = {
    "empty": ("", ["is empty"]),
    "binary": (b"\x80\x81", ["is not UTF-8 text"]),
    "no sequence": ("hello", ["expected a section"]),
    "version": (SEQUENCE.replace("minor 4", "minor 9"), ["version 1.9 is not supported"]),
    "event": (SEQUENCE.replace("[TRAP]\n1", "[TRAP]\n2"), ["gradient 1 is not defined"]),
    "no readout": (SEQUENCE.replace(" 0 0 0 0 1 0\n", " 0 0 0 0 0 0\n"), ["has no ADC"]),
    "its frequency": (sequence(definitions="FREQ 1e-9"), ["FREQ or B0 make 1e-09 MHz"]),
    "no spoiler": (SEQUENCE.replace(" 0 0 0 1 0 0\n", " 0 0 0 0 0 0\n"), ["without a spoiler"]),
}


@pytest.mark.parametrize(("content", "says"), BAD_SEQUENCES.values(), ids=BAD_SEQUENCES)
def test_bad_sequences(files, capsys, content, says):
    path = files / "small.seq"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(capsys, files, says)


def test_swapped_files(files, capsys):
    code, _, err = call(capsys, files / "small.yaml", files / "small.seq", "--out", files / "o.tsv")
    assert (code, "Swap the two files" in err) == (2, True)


@pytest.mark.parametrize("bad", ["loop", "n" * 300])
def test_names_no_file_system_takes(files, capsys, bad):
    (files / "loop.tsv").symlink_to(files / "loop.tsv")
    (files / "small.seq").write_text(SEQUENCE)
    check_refused(capsys, files, ["is no usable path"], out=f"{bad}.tsv")


def check_refused(capsys, folder, says, *options, out="out.tsv"):
    """Exit code 2, a sentence for each fault, and no file more than before."""
    before = sorted(folder.rglob("*"))
    code, _, err = call(
        capsys, folder / "small.seq", folder / "small.yaml", "--out", folder / out,
        "--device", "cpu", *options,
    )  # fmt: skip
    assert code == 2
    for text in says:
        assert text in err
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) < 800
    assert sorted(folder.rglob("*")) == before


PLACES = {
    "missing folder": ("nowhere/out.tsv", (), "Create it"),
    "ending": ("out.csv", (), "Let it end in .tsv"),
    "folder": ("folder.tsv", (), "is a folder"),
    "sidecar is a folder": ("made.tsv", (), "made.json: is a folder"),
    "figure's ending": ("out.tsv", ("--plot", "x.gif"), "Let it end in .png or .svg or .pdf"),
    "figure's folder": ("out.tsv", ("--plot", "/nowhere/x.png"), "Create it"),
    "dead time": ("out.tsv", ("--dead-time", "-1"), "is not a time in us"),
    "frequency": ("out.tsv", ("--frequency", "3e9"), "is not a frequency in MHz"),
    "both starts": ("out.tsv", ("--reset", "--continuous"), "not allowed with"),
    "solver": ("out.tsv", ("--solver", "magic"), "invalid choice"),
}


@pytest.mark.parametrize(("out", "options", "says"), PLACES.values(), ids=PLACES)
def test_bad_options(files, capsys, out, options, says):
    (files / "folder.tsv").mkdir()
    (files / "made.json").mkdir()
    check_refused(capsys, files, [says], *options, out=out)


@pytest.mark.parametrize("name", ["small.seq", "small.yaml"])
def test_inputs_that_are_no_files(files, capsys, name):
    (files / name).unlink()
    check_refused(capsys, files, [f"{name}: cannot be read (No such file"])
    (files / name).mkdir()
    check_refused(capsys, files, [f"{name}: is not a file"])
    (files / name).rmdir()
    os.mkfifo(files / name)
    check_refused(capsys, files, [f"{name}: is not a file"])


def test_inputs_are_never_overwritten(files, capsys):
    tsv, json_ = files / "in.tsv", files / "pools.json"
    tsv.write_text(SEQUENCE)
    json_.write_text(POOLS)
    for out in (tsv, files / "pools.tsv"):
        code, _, err = call(capsys, tsv, json_, "--out", out)
        assert code == 2
        assert "is an input of this command" in err
    (files / "link.tsv").symlink_to(tsv)
    assert call(capsys, tsv, json_, "--out", files / "link.tsv")[0] == 2
    assert (tsv.read_text(), json_.read_text()) == (SEQUENCE, POOLS)


def test_signals_that_are_not_finite(files, capsys, monkeypatch):
    monkeypatch.setattr(
        "cestprep.physics.simulate.signal",
        lambda protocol, *_, **__: jax.numpy.full((5, 1), np.nan),
    )
    check_refused(capsys, files, ["gives no finite signal for volume 1 (5 of 5)"])


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_all_or_nothing(files, capsys, monkeypatch, failing):
    """A disc that fills up leaves the earlier results and no temporary file."""
    for name in ("out.tsv", "out.json"):
        (files / name).write_text("earlier")

    def full(*_):
        raise OSError(28, "No space left on device")

    target = (Path, "write_bytes") if failing == "write_bytes" else (os, "replace")
    monkeypatch.setattr(*target, full)
    check_refused(capsys, files, ["No space left on device"], "--plot", files / "x.png")
    monkeypatch.undo()
    assert (files / "out.tsv").read_text() == (files / "out.json").read_text() == "earlier"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from cestprep.cli.tools import main\n"
        "try: main(['simulate', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'jax', 'numpy', 'nibabel', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "assert not heavy - {'yaml'}, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_documented_example(tmp_path):
    """What docs/simulate.rst shows, in a process of its own as a user runs it."""
    text = (ROOT / "docs/simulate.rst").read_text()
    blocks = {}
    for part in text.split(".. code-block:: ")[1:]:
        language, _, rest = part.partition("\n\n")
        lines = rest.split("\n")
        texts = (i for i, line in enumerate(lines) if line and not line.startswith("    "))
        end = next(texts, len(lines))
        blocks[language] = textwrap.dedent("\n".join(lines[:end]))
    (tmp_path / "small.seq").write_text(blocks["text"])
    (tmp_path / "small.yaml").write_text(blocks["yaml"])
    command = blocks["bash"].split()
    assert command[0] == "cestprep-tools"
    program = [sys.executable, "-m", "cestprep.cli.tools", *command[1:]]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Warning" not in ran.stdout
    rows = [line.split("\t") for line in (tmp_path / "small.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["offset_ppm", "-300.0000", "3.5000", "-3.5000"]
    assert float(rows[1][1]) > float(rows[3][1]) > float(rows[2][1]) > 0
    assert {"small.json", "small.png"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.shared_data
def test_published_spectrum(shared, tmp_path, capsys):
    """Case 2 of the challenge against its reference."""
    folder = shared / "reference/bmsim"
    out = tmp_path / "case_2.tsv"
    code, _, err = call(capsys, folder / "case_2.seq", folder / "case_2.yaml", "--out", out)
    assert code == 0, err
    got = np.genfromtxt(out, delimiter="\t", skip_header=1)
    want = np.genfromtxt(folder / "case_2_reference.csv", delimiter=",", skip_header=1)
    assert got[0, 0] == pytest.approx(-1560, abs=0.01)  # what is played; the reference says -300
    np.testing.assert_allclose(got[1:, 0], want[1:, 0], atol=1e-3, rtol=0)
    np.testing.assert_allclose(got[:, 1], want[:, 1], atol=2.7e-4, rtol=0)


def locked(offset, b1, count=3, delay=0.02, tip_s=5e-4, lock_s=0.05, phase=0.3):
    """A spin-lock train as Pulseq-CEST writes it: tips on resonance, phases that follow."""
    angle = np.arctan2(b1 * HZ_PER_UT, offset * MHZ)
    tip_b1 = angle / (2 * np.pi * HZ_PER_UT * tip_s)
    tip, lock = Waveform.rectangular(tip_s), Waveform.rectangular(lock_s)
    blocks = []
    for i in range(count):
        end = phase + 2 * np.pi * offset * MHZ * lock_s
        blocks += [
            Pulse(tip, tip_b1, 0.0, phase - np.pi / 2),
            Recovery(1e-6),
            Pulse(lock, b1, offset, phase),
            Recovery(1e-6),
            Pulse(tip, tip_b1, 0.0, end + np.pi / 2),
        ]
        blocks += [Recovery(delay)] if i < count - 1 else []
        phase += 0.7
    return blocks


def timing(protocol):
    """Length of every volume."""
    pulse = {Pulse: lambda b: b.waveform.duration_s, Recovery: lambda b: b.duration_s}
    pulse[Saturation] = lambda b: (
        b.n_pulses * b.pulse_duration_s + (b.n_pulses - 1) * b.pulse_delay_s
    )
    return [
        v.recovery_s + sum(pulse[type(b)](b) for b in v.preparation if type(b) in pulse)
        for v in protocol.volumes
    ]


def spin_locked(**changed):
    volumes = ((3.5, 2.0), (8.0, 1.5), (6.0, 3.0))
    end = [Spoil(), Recovery(5e-3), Readout(0.0)]
    blocks = [b for offset, b1 in volumes
              for b in (Recovery(1.0), *locked(offset, b1, **changed), *end)]  # fmt: skip
    return Protocol(tuple(blocks), MHZ, (False,) * len(volumes))


def test_idealised():
    protocol = spin_locked()
    assert all(q.tip_deg > 1 for q in prepared(protocol))
    ideal = idealised(protocol)
    kinds = [[type(b).__name__ for b in v.preparation] for v in ideal.volumes]
    assert kinds == [["Saturation", "Recovery", "Spoil", "Recovery"]] * 3
    train = ideal.volumes[0].preparation[0]
    assert (train.offset_ppm, train.b1_ut, train.n_pulses) == (3.5, 2.0, 3)
    assert train.spin_lock == "ideal"
    assert train.pulse_delay_s == pytest.approx(0.02 + 2 * (5e-4 + 1e-6), abs=1e-12)
    np.testing.assert_allclose(timing(ideal), timing(protocol), atol=1e-9, rtol=0)
    pools = read_pools(yaml.safe_load(POOLS))
    real, perfect = played(protocol, pools), played(ideal, pools)
    np.testing.assert_allclose(perfect, real, atol=5e-3, rtol=0)
    assert abs(perfect - real).max() > 1e-6


def test_idealised_keeps_what_comes_before_the_last_train():
    before = [Pulse(Waveform.rectangular(1e-3), 5.0, 0.0), Spoil(), Recovery(0.2)]
    blocks = (Recovery(1.0), *before, *locked(3.5, 2.0), Spoil(), Readout(0.0))
    ideal = idealised(Protocol(blocks, MHZ, (False,)))
    kinds = [type(b).__name__ for b in ideal.volumes[0].preparation]
    assert kinds == ["Pulse", "Spoil", "Recovery", "Saturation", "Recovery"]
    np.testing.assert_allclose(timing(ideal), timing(Protocol(blocks, MHZ, (False,))), atol=1e-9)


def test_idealised_leaves_other_volumes_alone():
    protocol = protocol_of(parse(SEQUENCE), MHZ)
    assert idealised(protocol).volumes == protocol.volumes


def test_idealised_needs_equal_delays():
    blocks = [*locked(3.5, 2.0, count=2), Recovery(0.03), *locked(3.5, 2.0, count=1)]
    first = spin_locked().blocks
    protocol = Protocol((*first, Recovery(1.0), *blocks, Spoil(), Readout(0.0)), MHZ, (False,) * 4)
    with pytest.raises(ValueError, match=r"volume 4: its pulse delays are not equal"):
        idealised(protocol)


def test_idealised_needs_equal_pulses():
    blocks = [*locked(3.5, 2.0, count=1), Recovery(0.02), *locked(3.6, 2.0, count=1)]
    protocol = Protocol((*blocks, Spoil(), Readout(0.0)), MHZ, (False,))
    with pytest.raises(ValueError, match=r"volume 1: its long pulses are not equal"):
        idealised(protocol)


def test_simplified_is_exact():
    protocol = protocol_of(parse(SEQUENCE), MHZ, reset=1.0)
    turned = tuple(
        Pulse(b.waveform, b.b1_ut, b.offset_ppm, 1.234) if isinstance(b, Pulse) else b
        for b in protocol.blocks[:4]
    )
    protocol = Protocol((*turned, *protocol.blocks[4:]), MHZ, protocol.is_m0)
    simple = simplified(protocol)
    found = [any(isinstance(b, Saturation) for b in v.preparation) for v in simple.volumes]
    assert found == [True, True, True, False, False]
    assert simple.volumes[3:] == protocol.volumes[3:]
    assert simple.volumes[0].preparation[1:] == (Spoil(), Recovery(5e-3))
    np.testing.assert_allclose(timing(simple), timing(protocol), atol=1e-11)
    pools = read_pools(yaml.safe_load(POOLS))
    np.testing.assert_allclose(played(simple, pools), played(protocol, pools), atol=1e-10, rtol=0)


def test_simplified_follows_sign_and_shape():
    negative = Waveform(np.array([0.1]), np.array([-1.0]))
    shaped = Waveform(np.array([0.1, 0.1]), np.array([1.0, 0.5]))
    blocks = []
    for waveform in (negative, shaped):
        blocks += [Recovery(0.1), Pulse(waveform, 2.0, 1.0), Spoil(), Readout(0.0)]
    simple = simplified(Protocol(tuple(blocks), MHZ, (False, False)))
    assert simple.volumes[0].preparation == (Saturation(1.0, 2.0, 0.1),)
    assert isinstance(simple.volumes[1].preparation[0], Pulse)


def test_simplified_moves_the_spoiler():
    """Recovery before and after it is one recovery; also after ideal tips."""
    blocks = [Recovery(0.1), Pulse(Waveform.rectangular(0.1), 2.0, 1.0)]
    late = (*blocks, Recovery(0.03), Spoil(), Recovery(0.05), Readout(0.0))
    protocol = Protocol(late, MHZ, (False,))
    simple = simplified(protocol)
    assert simple.volumes[0].preparation == (Saturation(1.0, 2.0, 0.1), Spoil(), Recovery(0.08))
    pools = read_pools(yaml.safe_load(POOLS))
    np.testing.assert_allclose(played(simple, pools), played(protocol, pools), atol=1e-10, rtol=0)
    ideal = idealised(spin_locked())
    kinds = [[type(b).__name__ for b in v.preparation] for v in simplified(ideal).volumes]
    assert kinds == [["Saturation", "Spoil", "Recovery"]] * 3
    np.testing.assert_allclose(
        played(simplified(ideal), pools), played(ideal, pools), atol=1e-10, rtol=0
    )


def test_ideal_tips_through_the_program(files, capsys):
    _, sidecar, said = simulate(capsys, files, "--tips", "ideal")
    assert sidecar["Conventions"]["Tips"] == "ideal"
    assert "4 of 4 volumes with RF are not recognised as spin-locked" in said
