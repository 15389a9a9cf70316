"""Pulseq sequences from their text to the signal: published spectra, look-alikes, exact cases."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

import jax
import numpy as np
import oracle
import pandas as pd
import pytest
import yaml
from bmctool.parameters import Parameters
from bmctool.simulation.BMCSim import BMCSim
from scipy.special import erf

from cestprep.physics import general, simulate
from cestprep.physics.protocol import Protocol, Pulse, Readout, Recovery
from cestprep.physics.pulseq import PulseqError, parse
from cestprep.physics.pulseq_pools import read_pools
from cestprep.physics.pulseq_protocol import NOTHING, Conventions, contradictions, prepared
from cestprep.physics.pulseq_protocol import protocol_of as protocol_of_sequence
from cestprep.physics.steps import Repeat, repeats
from cestprep.physics.waveforms import Waveform, sampled

HZ_PER_UT = 42.5764
PULSEQ = Conventions()
FREQUENCY = 127.7292
#: Each program runs once: what XLA's slower passes gain is less than what they cost.
COMPILER = {"xla_llvm_disable_expensive_passes": True}
POOLS = {
    "water_pool": {"f": 1.0, "t1": 1.3, "t2": 0.075},
    "cest_pool": {"amide": {"f": 0.002, "k": 300.0, "t1": 1.0, "t2": 0.04, "dw": 3.0}},
    "mt_pool": {"f": 0.1, "k": 40.0, "t1": 1.1, "t2": 4e-5, "dw": -2.0, "lineshape": "Lorentzian"},
    "b0": 3.0,
    "gamma": 2 * np.pi * HZ_PER_UT,
    "b0_inhom": 0.0,
    "rel_b1": 0.9,
    "reset_init_mag": False,
    "scale": 1.0,
    "verbose": False,
    "max_pulse_samples": 100_000,
}
WITHOUT_MT = {k: v for k, v in POOLS.items() if k != "mt_pool"}


def simulated(protocol, pools, dtype=np.float64, **changed):
    """Signal of one voxel per value of the changed parameters, shape (volumes, voxels)."""
    p = {k: np.array(v, dtype, ndmin=1) for k, v in (pools.parameters | changed).items()}
    with jax.enable_x64(dtype == np.float64):
        signal = jax.jit(
            lambda q: simulate.signal(protocol, pools.model, q, "general"),
            compiler_options=COMPILER,
        )
        z = np.asarray(signal(p))
    assert z.dtype == dtype
    return z


def bmctool(path, document):
    """Signed longitudinal water magnetisation by BMCTool."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pypulseq's, about older versions
        simulation = BMCSim(Parameters.from_dict(document), path, verbose=False)
    simulation.run()
    return simulation.get_zspec(return_abs=False)[1]


# ---------------------------------------------------------------------------------------------
# sequences written here


@dataclass(frozen=True)
class Rf:
    """Pulse of equal runs."""

    b1_ut: float
    duration_s: float
    offset_hz: float = 0.0
    phase_rad: float = 0.0
    runs: tuple[complex, ...] = (1.0,)

    def conjugate(self):
        return replace(self, runs=tuple(np.conj(self.runs)))

    def events(self):
        """The same for the oracle."""
        step = self.duration_s / len(self.runs)
        for i, run in enumerate(self.runs):
            phase = self.phase_rad + 2 * np.pi * self.offset_hz * i * step + np.angle(run)
            yield "rf", self.b1_ut * abs(run), self.offset_hz, phase, step


@dataclass(frozen=True)
class Rest:
    duration_s: float

    def events(self):
        yield "rest", self.duration_s


@dataclass(frozen=True)
class Gradient:
    duration_s: float = 1e-3

    def events(self):
        yield ("spoil",)
        yield "rest", self.duration_s


@dataclass(frozen=True)
class Read:
    duration_s: float = 0.0

    def events(self):
        yield ("read",)


def compressed(samples):
    """Differences, of which two equal ones are followed by how many more there are."""
    differences = np.diff(samples, prepend=0.0)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(differences) != 0]))
    counts = np.diff([*starts, differences.size])
    out = []
    for value, count in zip(differences[starts], counts, strict=True):
        out += [value] if count == 1 else [value, value, count - 2]
    return out


class Events:
    """Rows of a section, each kept once."""

    def __init__(self):
        self.rows = {}

    def id(self, row):
        return self.rows.setdefault(row, len(self.rows) + 1)

    def __str__(self):
        return "\n".join(f"{i} {row}" for row, i in self.rows.items())


def text(blocks, raster_s=1e-5, minor=4, **definitions):
    """Pulseq text; a block is an event or several that start together."""
    rfs, delays, traps, adcs, shapes = (Events() for _ in range(5))

    def shape(samples):
        stored = compressed(samples)
        stored = stored if minor < 4 or len(stored) < len(samples) else samples
        lines = "\n".join(f"{v:.17g}" for v in stored)
        return shapes.id(f"\nnum_samples {len(samples)}\n{lines}\n")

    def rf_id(rf):
        each = round(rf.duration_s / raster_s / len(rf.runs))
        runs = np.repeat(np.array(rf.runs, complex), each)
        assert abs(len(runs) * raster_s - rf.duration_s) < 1e-12
        ids = f"{shape(np.abs(runs))} {shape(np.angle(runs) / (2 * np.pi) % 1)}"
        time = " 0" if minor >= 4 else ""
        amplitude = f"{rf.b1_ut * HZ_PER_UT:.17g}"
        return rfs.id(f"{amplitude} {ids}{time} 0 {rf.offset_hz:.17g} {rf.phase_rad:.17g}")

    rows = []
    for number, block in enumerate(blocks, start=1):
        events = block if isinstance(block, tuple) else (block,)
        ids = {"rf": 0, "trap": 0, "adc": 0, "delay": 0}
        for e in events:
            us = round(e.duration_s * 1e6)
            if isinstance(e, Rf):
                ids["rf"] = rf_id(e)
            elif isinstance(e, Gradient):
                ids["trap"] = traps.id(f"1e5 100 {us - 200} 100 0")
            elif isinstance(e, Read):
                ids["adc"] = adcs.id(f"1 {us * 1000} 0 0 0")
            else:
                ids["delay"] = delays.id(f"{us}")
        if minor >= 4:
            ids["delay"] = round(max(e.duration_s for e in events) / 1e-5)
        rows.append(f"{number} {ids['delay']} {ids['rf']} 0 0 {ids['trap']} {ids['adc']} 0")
    reads = sum(isinstance(b, Read) for b in blocks)
    stated = {"RadiofrequencyRasterTime": raster_s, "offsets_ppm": [0.0] * reads} | definitions
    if minor >= 4:
        stated |= {"BlockDurationRaster": 1e-5, "GradientRasterTime": 1e-5, "AdcRasterTime": 1e-7}
    lines = (f"{k} {' '.join(f'{v:.12g}' for v in np.atleast_1d(vs))}" for k, vs in stated.items())
    parts = {
        "VERSION": f"major 1\nminor {minor}\nrevision 0",
        "DEFINITIONS": "\n".join(lines),
        "BLOCKS": "\n".join(rows),
        "RF": rfs,
        "TRAP": traps,
        "ADC": adcs,
        "SHAPES": "".join(f"\nshape_id {i}{row}" for row, i in shapes.rows.items()),
    }
    parts |= {"DELAYS": delays} if minor < 4 else {}
    return "".join(f"[{name}]\n{body}\n\n" for name, body in parts.items())


def protocol_of(blocks, raster_s=1e-5, conventions=PULSEQ, reset=None):
    return protocol_of_sequence(parse(text(blocks, raster_s)), FREQUENCY, reset, conventions)


def gaussian(n):
    return tuple(np.exp(-((np.linspace(-2, 2, n + 1)[:-1] + 2 / n) ** 2)))


def sinc_gauss(n):
    t = (np.arange(n) + 0.5) / n * 2 - 1
    return tuple(np.sinc(3 * t) * np.exp(-2 * t**2))


def hanning(n):
    return tuple(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2)


def hyperbolic_secant(n, sweep_hz, duration_s, centre_hz=0.0):
    """Full passage from below to above the centre."""
    t = ((np.arange(n) + 0.5) / n - 0.5) * duration_s
    beta = 2 * np.arccosh(50) / duration_s
    phase = np.pi * sweep_hz / beta * np.log(np.cosh(beta * t)) + 2 * np.pi * centre_hz * t
    return tuple(np.exp(1j * phase) / np.cosh(beta * t))


def with_recovery(preparations, recovery_s=0.8):
    """Volumes that carry their magnetisation on."""
    return [b for q in preparations for b in (Rest(recovery_s), *q, Gradient(), Read())]


def train(rf, n, delay_s, own_phase_rad=0.0):
    """Pulses along a carrier that runs on, plus a phase of their own, as files round it."""
    out = []
    for i in range(n):
        phase = 2 * np.pi * rf.offset_hz * i * (rf.duration_s + delay_s) + own_phase_rad * i**2
        out += [replace(rf, phase_rad=round(phase % (2 * np.pi), 6)), Rest(delay_s)]
    return out[:-1]


def ppm(*values):
    return [v * FREQUENCY for v in values]


def continuous_wave():
    return with_recovery([Rf(2.0, 0.5, f)] for f in ppm(-300, -3, -0.5, 0, 0.4, 3, 3.5))


def phased_train():
    return with_recovery(train(Rf(3.0, 0.02, f), 4, 0.003, 0.7) for f in ppm(-1.3, 0.2, 3))


def gauss_train():
    return with_recovery(train(Rf(3.0, 0.02, f, 0, gaussian(50)), 4, 0.01) for f in ppm(-1, 0.3, 3))


def adiabatic_saturation():
    """WASABITI: all is saturated, recovers, and is nutated."""
    passage = Rf(14.0, 0.01, 120.0, 0.4, hyperbolic_secant(200, 1200, 0.01))
    times = (0.3, 0.7, 1.5)
    return with_recovery(
        [passage, Gradient(), Rest(t), Rf(3.7, 0.005, f)]
        for t, f in zip(times, ppm(-0.6, 0.1, 0.9), strict=True)
    )


def t2_preparation():
    def echo(te):
        tips = [Rf(20.0, 0.0003, 30.0, phase) for phase in (0.0, np.pi / 2, np.pi)]
        refocus = replace(tips[1], duration_s=0.0006)
        return [tips[0], Rest(te / 2), refocus, Rest(te / 2), tips[2]]

    return with_recovery(echo(te) for te in (0.01, 0.04, 0.1))


def spin_lock():
    """Locks between real tips onto their effective field, of different power and offset."""

    def locks(b1, offset_hz, n=3):
        tip_hz = np.arctan2(b1 * HZ_PER_UT, offset_hz) / (2 * np.pi) / 1e-3
        out = []
        for i in range(n):
            phase, lock = 0.9 * i, Rf(b1, 0.05, offset_hz, 0.9 * i)
            end = phase + 2 * np.pi * offset_hz * lock.duration_s
            tips = [Rf(tip_hz / HZ_PER_UT, 1e-3, 0.0, p % (2 * np.pi)) for p in
                    (phase - np.pi / 2, end + np.pi / 2)]  # fmt: skip
            out += [tips[0], lock, tips[1], Rest(0.05)]
        return out[:-1]

    return with_recovery(locks(b1, f) for b1, f in zip((2.0, 3.5, 1.0), ppm(3, 6, 3), strict=True))


#: Blocks, raster of the RF (s) and shaped pulses in a volume.
LOOK_ALIKES = {
    "continuous wave": (continuous_wave, 1e-4, 0),
    "train with phases": (phased_train, 1e-4, 0),
    "Gaussian train": (gauss_train, 4e-4, 4),
    "adiabatic saturation": (adiabatic_saturation, 5e-5, 1),
    "T2 preparation": (t2_preparation, 1e-5, 0),
    "spin lock": (spin_lock, 1e-5, 0),
}


def oracle_voxel(document):
    """Pools and water of a document as the oracle wants them."""
    water = {k: document["water_pool"][k] for k in ("t1", "t2")}
    water |= {"b0": document["b0_inhom"], "b1": document["rel_b1"]}
    named = {"cest": list(document["cest_pool"].values()), "mt": [document.get("mt_pool")]}
    pools = [
        {"kind": kind, "shift": q["dw"], **{k: q[k] for k in ("f", "k", "t1", "t2")}}
        for kind, found in named.items()
        for q in found
        if q is not None
    ]
    return pools, water


def by_oracle(blocks, document=POOLS):
    events = [e for block in blocks for e in block.events()]
    return oracle.played(events, FREQUENCY, *oracle_voxel(document))


@cache
def ours(name):
    make, raster_s, _ = LOOK_ALIKES[name]
    return simulated(protocol_of(make(), raster_s), read_pools(POOLS))[:, 0]


@pytest.mark.parametrize("name", LOOK_ALIKES)
class TestLookAlikes:
    def test_equal_the_oracle(self, name):
        make, _, shaped = LOOK_ALIKES[name]
        want = by_oracle(make())
        atol = max(1, shaped) * general.PULSE_TOLERANCE
        np.testing.assert_allclose(ours(name), want, atol=atol, rtol=0)
        assert np.ptp(want) > 0.1

    def test_equal_bmctool(self, name, tmp_path):
        """BMCTool counts phases of shapes the other way round."""
        make, raster_s, shaped = LOOK_ALIKES[name]
        blocks = [b.conjugate() if isinstance(b, Rf) else b for b in make()]
        path = tmp_path / "generated.seq"
        path.write_text(text(blocks, raster_s))
        want = bmctool(path, POOLS)
        atol = max(1, shaped) * general.PULSE_TOLERANCE
        np.testing.assert_allclose(ours(name), want, atol=atol, rtol=0)

    def test_every_dialect_is_the_same_protocol(self, name):
        make, raster_s, _ = LOOK_ALIKES[name]
        texts = (text(make(), raster_s, minor) for minor in (3, 4))
        old, new = (protocol_of_sequence(parse(t), FREQUENCY).blocks for t in texts)
        assert [type(b) for b in old] == [type(b) for b in new]
        for a, b in zip(old, new, strict=True):
            if isinstance(a, Pulse):
                assert (a.b1_ut, a.offset_ppm, a.phase_rad) == (b.b1_ut, b.offset_ppm, b.phase_rad)
                np.testing.assert_allclose(a.waveform.envelope, b.waveform.envelope, atol=1e-12)
            elif isinstance(a, Recovery):
                np.testing.assert_allclose(a.duration_s, b.duration_s, rtol=1e-12)


def test_a_real_spin_lock_is_nearly_an_ideal_one():
    """The look-alike locks indeed: without its tips most of the magnetisation is lost."""
    locked = ours("spin lock")
    plain = [b for b in spin_lock() if not (isinstance(b, Rf) and b.duration_s < 0.05)]
    assert (locked - by_oracle(plain) > 0.02).any()


# ---------------------------------------------------------------------------------------------
# published references

#: Spread of the main cluster of 20 simulators.
BMSIM = {1: 6.8e-5, 2: 2.7e-4, 3: 5.9e-4, 5: 1.7e-3, 7: 7.3e-3, 8: 2.1e-5}
#: How case 8's reference was made; its file does not say.
CASE_8 = Conventions("pulseq", "whole_degrees", dead_time_s=100e-6, ringdown_s=30e-6)


def read_case(folder, number, conventions=PULSEQ):
    sequence = parse((folder / f"case_{number}.seq").read_text())
    pools = read_pools(yaml.safe_load((folder / f"case_{number}.yaml").read_text()))
    return protocol_of_sequence(sequence, pools.frequency_mhz, pools.reset, conventions), pools


def with_first_pulse_at(protocol, offset_ppm):
    blocks = list(protocol.blocks)
    at = next(i for i, b in enumerate(blocks) if isinstance(b, Pulse))
    blocks[at] = replace(blocks[at], offset_ppm=offset_ppm)
    return replace(protocol, blocks=tuple(blocks))


@cache
def case(folder, number, dtype):
    """Spectrum of a case as its reference was made: 3 has M0 at -300 ppm, in its file -1560."""
    protocol, pools = read_case(folder, number, CASE_8 if number == 8 else PULSEQ)
    if number == 3:
        protocol = with_first_pulse_at(protocol, -300.0)
    return simulated(protocol, pools, dtype)[:, 0]


@pytest.mark.shared_data
@pytest.mark.parametrize("number", BMSIM)
class TestBmsimChallenge:
    def test_within_the_cluster_of_simulators(self, shared, number):
        folder = shared / "reference/bmsim"
        want = pd.read_csv(folder / f"case_{number}_reference.csv").mz
        got = case(folder, number, np.float64)
        np.testing.assert_allclose(got, want, atol=BMSIM[number], rtol=0)

    def test_float32_is_good(self, shared, number):
        folder = shared / "reference/bmsim"
        single = case(folder, number, np.float32)
        np.testing.assert_allclose(single, case(folder, number, np.float64), atol=2e-4, rtol=0)


@pytest.mark.shared_data
def test_case_8_with_its_conventions_is_its_reference(shared):
    folder = shared / "reference/bmsim"
    want = pd.read_csv(folder / "case_8_reference.csv").mz
    np.testing.assert_allclose(case(folder, 8, np.float64), want, atol=2e-6, rtol=0)


@pytest.mark.shared_data
def test_case_8_as_written_is_what_bmctool_plays(shared):
    folder = shared / "reference/bmsim"
    want = bmctool(folder / "case_8.seq", yaml.safe_load((folder / "case_8.yaml").read_text()))
    got = simulated(*read_case(folder, 8))[:, 0]
    np.testing.assert_allclose(got, want, atol=1e-11, rtol=0)
    assert abs(got - case(folder, 8, np.float64)).max() > 1e-3


READS_CASE_1 = """
import sys, numpy as np, yaml, jax
from pathlib import Path
from cestprep.physics import pulseq, pulseq_pools, pulseq_protocol, simulate
folder = Path(sys.argv[1])
pools = pulseq_pools.read_pools(yaml.safe_load((folder / "case_1.yaml").read_text()))
sequence = pulseq.parse((folder / "case_1.seq").read_text())
protocol = pulseq_protocol.protocol_of(sequence, pools.frequency_mhz, pools.reset)
p = {k: np.array([v], np.float32) for k, v in pools.parameters.items()}
z = jax.jit(lambda q: simulate.signal(protocol, pools.model, q))(p)
assert np.isfinite(z).all() and z.shape == (302, 1)
(peak,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
print(peak.split()[1])
"""


@pytest.mark.shared_data
def test_case_1_needs_less_than_2_gb(shared):
    """Its pulse of 15 s has 15 million samples; the peak is the child's own (VmHWM)."""
    command = [sys.executable, "-c", READS_CASE_1, str(shared / "reference/bmsim")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert 1e5 < int(done.stdout) < 2e6  # kB


#: Published spectra and, unless a pulse is shaped, how their simulator counts the carrier's phase:
#: it matters where a pulse at an offset is followed by another.
SPECTRA = {
    "APTw_3T_000_2uT_1block_2s_braintumor": "exact",
    "APTw_3T_001_2uT_36SincGauss_DC90_2s_braintumor": None,
    "APTw_3T_003_2uT_8block_DC95_834ms_braintumor": "whole_degrees",
    "MRF_CEST_3T_001_block_brain": "whole_degrees",
    "MRF_CEST_3T_002_13SL_DC50_2500ms_LArginine": "whole_degrees",
    "MRF_CEST_3T_003_13SL_DC50_2500ms_MT": "whole_degrees",
    "MultiPool_3T_001_0p6uT_80Gauss_DC50_3200ms_GLINT": None,
    "T2map_001_T2prep": "exact",
    "WASABIT1_3T_001_3p7uT_1block_5p12ms": None,
    "WASABI_3T_001_3p7uT_1block_5ms": "exact",
}
#: Sequences that take longest, each like another one.
LONG = (
    "MRF_CEST_3T_001_block_brain",
    "MRF_CEST_3T_003_13SL_DC50_2500ms_MT",
    "MultiPool_3T_001_0p6uT_80Gauss_DC50_3200ms_GLINT",
    "WASABIT1_3T_001_3p7uT_1block_5p12ms",
)


def published(folder, name, conventions):
    """Protocol and pools of a published sequence."""
    pools = read_pools(yaml.safe_load((folder / "WM_3T_default_7pool_bmsim.yaml").read_text()))
    sequence = parse((folder / f"{name}.seq").read_text())
    return protocol_of_sequence(sequence, pools.frequency_mhz, pools.reset, conventions), pools


@cache
def spectrum(folder, name, carrier_phase):
    conventions = Conventions(carrier_phase=carrier_phase)
    return simulated(*published(folder, name, conventions))[:, 0]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in SPECTRA]
)
def test_published_spectra(shared, name):
    folder = shared / "reference/pulseq"
    want = np.loadtxt(folder / f"M_z_{name}.seq.txt")
    np.testing.assert_allclose(spectrum(folder, name, "exact"), want, atol=1e-3, rtol=0)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "carrier_phase"), [(n, c) for n, c in SPECTRA.items() if c])
def test_spectra_of_rectangular_pulses_are_reproduced(shared, name, carrier_phase):
    folder = shared / "reference/pulseq"
    want = np.loadtxt(folder / f"M_z_{name}.seq.txt")
    got = spectrum(folder, name, carrier_phase)
    np.testing.assert_allclose(got, want, atol=2e-7, rtol=0)


# ---------------------------------------------------------------------------------------------
# how finely pulses are sampled, and which way phases turn

#: Envelopes with their length (s) and peak (uT).
SHAPES = {
    "Gaussian": (gaussian(256), 0.02, 3.0),
    "sinc-Gauss": (sinc_gauss(250), 0.05, 3.3),
    "Hanning": (hanning(256), 0.01, 2.0),
    "hyperbolic secant": (hyperbolic_secant(256, 1200, 0.01), 0.01, 14.0),
}
OFFSETS_HZ = (0.0, -400.0, 2000.0)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def waveform(runs, duration_s):
    values = np.array(runs, complex)
    return Waveform(np.full(values.size, duration_s / values.size), values / abs(values).max())


def after(pulse, b1_ut, offset_hz):
    """Signal after one pulse."""
    starts = np.cumsum(pulse.durations_s) - pulse.durations_s
    phases = np.angle(pulse.envelope) + 2 * np.pi * offset_hz * starts
    rows = zip(abs(pulse.envelope) * b1_ut, phases, pulse.durations_s, strict=True)
    events = [("rf", b1, offset_hz, phase, t) for b1, phase, t in rows]
    return oracle.played([*events, ("read",)], FREQUENCY, *oracle_voxel(POOLS))[0]


@pytest.mark.parametrize("name", SHAPES)
def test_errors_of_sampling_fall_with_the_tolerance(name):
    runs, duration_s, b1_ut = SHAPES[name]
    stored = waveform(runs, duration_s)
    rad_per_s = tuple(2 * np.pi * f for f in OFFSETS_HZ)
    want = np.array([after(stored, b1_ut, f) for f in OFFSETS_HZ])
    samplings = [
        sampled(stored, 2 * np.pi * HZ_PER_UT * b1_ut, rad_per_s, tolerance)
        for tolerance in TOLERANCES
    ]
    found = {
        s: np.abs([after(s, b1_ut, f) for f in OFFSETS_HZ] - want).max() for s in set(samplings)
    }
    errors = [found[s] for s in samplings]
    sizes = [s.durations_s.size for s in samplings]
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert (np.array(errors) <= TOLERANCES).all()
    assert errors[0] > 1e-5  # else nothing was coarsened


@pytest.mark.parametrize("name", SHAPES)
def test_averaging_keeps_the_flip_angle(name):
    runs, duration_s, _ = SHAPES[name]
    stored = waveform(runs, duration_s)
    for count in (1, 3, 64, 255):
        coarse = stored.averaged(count)
        integrals = [w.durations_s @ w.envelope for w in (coarse, stored)]
        np.testing.assert_allclose(*integrals, atol=1e-15)
        np.testing.assert_allclose([coarse.mean, coarse.duration_s],
                                   [stored.mean, duration_s], rtol=1e-12)  # fmt: skip


def test_no_tolerance_leaves_the_pulse_as_stored():
    stored = waveform(gaussian(500), 0.02)
    assert sampled(stored, 800.0, (0.0,), 0.0) is stored


def phase_ramp(n, step_s, hertz):
    """Staircase that acts like a frequency up to B1 times ramp times the square of its step."""
    turns = hertz * step_s * (np.arange(n) + 0.5)
    return tuple(np.exp(2j * np.pi * turns) / np.sinc(hertz * step_s))


def test_a_phase_ramp_is_a_frequency(monkeypatch):
    exact = partial(general.preparation_maps, pulse_tolerance=0.0)
    monkeypatch.setitem(simulate.SOLVERS, "general", exact)
    ramp_hz, carrier_hz, n, step_s = 40.0, 90.0, 8000, 1e-6
    pools = read_pools(WITHOUT_MT | {"b0_inhom": 0.4})

    def pair(rf):
        return with_recovery([[rf, Rest(0.001), replace(rf, phase_rad=0.7)]])

    def z(rf, phase_sign="pulseq"):
        protocol = protocol_of(pair(rf), step_s, Conventions(phase_sign))
        return simulated(protocol, pools)[0, 0]

    ramp = Rf(0.8, n * step_s, carrier_hz, 0.0, phase_ramp(n, step_s, ramp_hz))
    above, below = (Rf(0.8, n * step_s, carrier_hz + s * ramp_hz) for s in (1, -1))
    assert abs(z(ramp) - z(above)) < 1e-8
    assert abs(z(ramp, "conjugate") - z(below)) < 1e-8
    assert abs(z(above) - z(below)) > 0.01


def test_a_passage_inverts_where_it_sweeps():
    """Around +800 Hz of the carrier, spins at +800 Hz are inverted, those at -800 Hz are not."""
    runs = hyperbolic_secant(1000, 600, 0.01, centre_hz=800.0)
    blocks = [Rf(14.0, 0.01, 0.0, 0.0, runs), Gradient(), Read()]
    water = read_pools(POOLS | {"cest_pool": None, "mt_pool": None})
    b0_ppm = np.array([800.0, -800.0]) / FREQUENCY
    for phase_sign, inverted in (("pulseq", 0), ("conjugate", 1)):
        protocol = protocol_of(blocks, 1e-5, Conventions(phase_sign))
        z = simulated(protocol, water, b0_ppm=b0_ppm)[0]
        assert z[inverted] < -0.8
        assert z[1 - inverted] > 0.9


def test_silence_around_pulses():
    blocks = [Rf(1.0, 0.01), Gradient(), Read()]
    plain = protocol_of(blocks)
    quiet = protocol_of(blocks, conventions=Conventions(dead_time_s=1e-4, ringdown_s=3e-5))
    assert [b for b in quiet.blocks if not isinstance(b, Recovery)] == [
        b for b in plain.blocks if not isinstance(b, Recovery)
    ]
    assert [b.duration_s for b in plain.blocks if isinstance(b, Recovery)] == [1e-3]
    assert [b.duration_s for b in quiet.blocks if isinstance(b, Recovery)] == [
        1e-4, 3e-5, 1e-3
    ]  # fmt: skip


def test_a_long_pulse_stays_one_run():
    """15 s on a raster of 1 us."""
    protocol = protocol_of([Rf(2.0, 15.0, 100.0), Gradient(), Read()], 1e-6)
    (pulse,) = (b for b in protocol.blocks if isinstance(b, Pulse))
    assert pulse.waveform.is_rectangular
    np.testing.assert_allclose(pulse.waveform.duration_s, 15.0)


# ---------------------------------------------------------------------------------------------
# what events say against definitions, and what cannot be played

GAUSS = gaussian(2000)
#: Of exp(-4 u^2) over -1 < u < 1, half the pulse being 1.
GAUSS_MEAN = np.sqrt(np.pi) / 4 * erf(2)
GAUSS_RMS = np.sqrt(np.sqrt(np.pi / 2) / 4 * erf(np.sqrt(8)))


def only_prepared(blocks, raster_s=1e-5):
    (found,) = prepared(protocol_of([*blocks, Gradient(), Read()], raster_s))
    return found


class TestPrepared:
    @pytest.mark.parametrize(
        ("runs", "mean", "rms"), [((1.0,), 1.0, 1.0), (GAUSS, GAUSS_MEAN, GAUSS_RMS)]
    )
    def test_power_of_trains(self, runs, mean, rms):
        found = only_prepared(train(Rf(3.0, 0.02, 500.0, 0.0, runs), 5, 0.01))
        np.testing.assert_allclose(found.offset_ppm, 500 / FREQUENCY)
        assert (found.n_pulses, found.tip_deg) == (5, 0.0)
        got = [found.pulse_duration_s, found.pulse_delay_s, found.duration_s]
        np.testing.assert_allclose(got, [0.02, 0.01, 5 * 0.02 + 4 * 0.01], rtol=1e-9)
        got = [found.b1_peak_ut, found.b1_mean_ut, found.b1_rms_ut, found.b1_cwpe_ut]
        want = [3.0, 3.0 * mean, 3.0 * rms, 3.0 * rms * np.sqrt(0.1 / 0.14)]
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_unequal_delays_are_told_by_the_longest(self):
        rf = Rf(1.0, 0.02)
        found = only_prepared([rf, Rest(0.01), rf, Rest(0.03), rf, Rest(0.02), rf])
        np.testing.assert_allclose(found.pulse_delay_s, 0.03)

    def test_only_the_last_part_counts(self):
        passage = Rf(14.0, 0.05, 0.0, 0.0, hyperbolic_secant(100, 1200, 0.05))
        found = only_prepared([passage, Gradient(), Rest(1.0), Rf(3.7, 0.005, 100.0)])
        assert (found.n_pulses, found.tip_deg) == (1, 0.0)
        np.testing.assert_allclose(found.duration_s, 0.005)

    def test_without_rf_there_is_nothing(self):
        assert prepared(protocol_of([Rest(1.0), Read()])) == (NOTHING,)

    def test_tips_have_their_flip_angle(self):
        tilts = np.degrees(np.arctan2(np.array([2.0, 3.5, 1.0]) * HZ_PER_UT, ppm(3, 6, 3)))
        found = prepared(protocol_of(spin_lock()))
        np.testing.assert_allclose([q.tip_deg for q in found], tilts, rtol=1e-6)
        assert [q.n_pulses for q in found] == [3, 3, 3]

    def test_other_short_pulses_are_no_tips(self):
        """Not those of a wrong angle, and not those on one side only."""
        good, lock = spin_lock()[1:3]
        assert abs(good.b1_ut * good.duration_s * HZ_PER_UT * 360 - 12.5) < 0.1
        wrong = replace(good, b1_ut=2 * good.b1_ut)
        assert only_prepared([good, lock, good]).tip_deg > 12
        for blocks in ([wrong, lock, wrong], [good, lock], [lock, good], [good, lock, lock, good]):
            assert only_prepared(blocks).tip_deg == 0.0

    @pytest.mark.shared_data
    def test_tips_of_published_sequences(self, shared):
        folder = shared / "reference/pulseq"
        protocol, _ = published(folder, "MRF_CEST_3T_002_13SL_DC50_2500ms_LArginine", PULSEQ)
        found = prepared(protocol)
        tilts = [np.degrees(np.arctan2(q.b1_peak_ut * HZ_PER_UT, 3 * FREQUENCY)) for q in found]
        np.testing.assert_allclose([q.tip_deg for q in found], tilts, atol=0.01)
        assert [q.n_pulses for q in found] == [13] * 30
        np.testing.assert_allclose([q.pulse_duration_s for q in found], 0.1)
        for name in ("WASABIT1_3T_001_3p7uT_1block_5p12ms", "WASABI_3T_001_3p7uT_1block_5ms"):
            protocol, _ = published(folder, name, PULSEQ)
            assert [q.tip_deg for q in prepared(protocol)] == [0.0] * 32


TRUE_DEFINITIONS = {
    "FREQ": FREQUENCY,
    "num_meas": 3,
    "offsets_ppm": [-2.0, 0.5, 3.0],
    "B1": 2.0,
    "B1rms": 2.0 * np.sqrt(0.08 / 0.11),
    "B1cwpe": 2.0 * np.sqrt(0.08 / 0.11),
    "n_pulses": 4,
    "tp": 0.02,
    "Tsat": 0.11,
}


def contradicted(frequency_mhz=FREQUENCY, **changed):
    blocks = with_recovery(train(Rf(2.0, 0.02, f), 4, 0.01) for f in ppm(-2, 0.5, 3))
    sequence = parse(text(blocks, 1e-5, **(TRUE_DEFINITIONS | changed)))
    return contradictions(sequence, protocol_of_sequence(sequence, frequency_mhz))


class TestContradictions:
    def test_none_in_a_right_file(self):
        assert contradicted() == ()

    def test_b1rms_may_be_that_of_one_pulse(self):
        assert contradicted(B1rms=2.0) == ()

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("offsets_ppm", [-2, 0.5, 3.5], "offsets_ppm is 3.5 ppm, but volume 3 plays 3 ppm"),
            ("offsets_ppm", [2, 0.6, 3.0], "volume 2 and 1 more plays 0.5 ppm"),
            ("B1", 2.5, "B1 is 2.5 uT, but volume 3 and 2 more plays 2 uT"),
            ("B1rms", 1.9, "B1rms is 1.9 uT, but volume 3 and 2 more plays 1.7056"),
            ("B1cwpe", 2.0, "B1cwpe is 2 uT, but volume 3 and 2 more plays 1.7056"),
            ("n_pulses", 5, "n_pulses is 5 pulses, but volume 3 and 2 more plays 4 pulses"),
            ("tp", 0.025, "tp is 0.025 s, but volume 3 and 2 more plays 0.02 s"),
            ("Tsat", 0.08, "Tsat is 0.08 s, but volume 3 and 2 more plays 0.11 s"),
            ("num_meas", 4, "num_meas is 4, but there are 3 readouts"),
        ],
    )
    def test_each_is_named(self, name, value, said):
        (found,) = contradicted(**{name: value})
        assert said in found

    def test_another_scanner_frequency(self):
        """RF keeps its Hz; the offsets are still those of the scanner the file was written for."""
        offsets_ppm = [hertz / 123.2 for hertz in ppm(-2, 0.5, 3)]
        (found,) = contradicted(FREQ=123.2, offsets_ppm=offsets_ppm)
        assert "written for 123.2 MHz, simulated at 127.729 MHz" in found
        (found,) = contradicted(frequency_mhz=123.2)
        assert "written for 127.729 MHz, simulated at 123.2 MHz" in found


RF = Rf(1.0, 0.01, 100.0)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([(RF, Gradient(0.01)), Read()], "block 1: RF together with a gradient"),
        ([Rest(1.0), (RF, Read(0.01))], "block 2: RF together with an ADC"),
        ([RF, Rest(0.1), Read()], "block 3: the ADC follows RF without a spoiler"),
        ([RF, Gradient(), Read(), RF, Read()], "block 5: the ADC follows RF without a spoiler"),
        ([RF, Gradient()], "the sequence has no ADC"),
        ([RF, Gradient(), Read(), Rest(1.0), RF], "plays RF after its last ADC"),
    ],
)
def test_what_cannot_be_played_is_refused(blocks, said):
    with pytest.raises(PulseqError, match=said):
        protocol_of(blocks)


# ---------------------------------------------------------------------------------------------
# repeated steps, and what happens between preparation and the next volume


def unrolled(found, order):
    return [x for r in found for _ in range(r.count) for x in order[r.start : r.start + r.period]]


def test_repeats_cover_every_order_exactly():
    rng = np.random.default_rng(3)
    short = [list(o) for n in range(8) for o in product((0, 1), repeat=n)]
    long = [list(rng.integers(0, 3, rng.integers(8, 40))) for _ in range(300)]
    long += [list(rng.integers(0, 2, 3)) * rng.integers(2, 9) for _ in range(50)]
    for order in short + long:
        found = repeats(order)
        assert unrolled(found, order) == order
        assert [r.start for r in found[1:]] == list(
            np.cumsum([r.period * r.count for r in found])[:-1]
        )


def test_repeats_find_trains():
    assert repeats((0, 1) * 12 + (0,)) == (Repeat(0, 2, 12), Repeat(24, 1, 1))
    assert repeats((5, 0, 0, 0, 7)) == (Repeat(0, 1, 1), Repeat(1, 1, 3), Repeat(4, 1, 1))
    assert repeats((0, 0, 1) * 40) == (Repeat(0, 3, 40),)


def recovering(reset, *times_s):
    blocks = [b for t in times_s for b in (Recovery(t), Readout(0.0, reset=reset))]
    return Protocol(tuple(blocks), FREQUENCY, (False,) * len(times_s))


#: Pools that relax alike: their sum and each of them do so without exchange being felt.
ALIKE = {k: v | {"t1": 1.3} if k in ("water_pool", "mt_pool") else v for k, v in POOLS.items()}
ALIKE |= {"cest_pool": {"amide": POOLS["cest_pool"]["amide"] | {"t1": 1.3}}}


class TestReset:
    def test_each_volume_starts_at_this_part_of_equilibrium(self):
        times = np.array([0.4, 0.4, 2.0, 0.0])
        for reset in (0.5, 0.0):
            z = simulated(recovering(reset, *times), read_pools(ALIKE))[1:, 0]
            np.testing.assert_allclose(z, (1 - (1 - reset) * np.exp(-times / 1.3))[1:], atol=1e-10)

    def test_so_does_the_first(self, tmp_path):
        """As `PoolSimulation.reset` says, and in BMCTool."""
        document = ALIKE | {"reset_init_mag": True, "scale": 0.5}
        path = tmp_path / "recovery.seq"
        path.write_text(text([Rest(0.4), Read()]))
        pools = read_pools(document)
        protocol = protocol_of_sequence(parse(path.read_text()), FREQUENCY, pools.reset)
        np.testing.assert_allclose(
            simulated(protocol, pools)[:, 0], bmctool(path, document), atol=1e-10
        )

    def test_it_matters(self):
        blocks = with_recovery([[Rf(2.0, 0.5, f)] for f in ppm(1, 1, 1)], 0.3)
        pools = read_pools(POOLS)
        carried, reset = (simulated(protocol_of(blocks, reset=r), pools)[:, 0] for r in (None, 1.0))
        np.testing.assert_allclose(reset, reset[0], atol=1e-12)
        np.testing.assert_allclose(reset[0], carried[0], atol=1e-12)
        assert (carried[1:] < reset[1:] - 0.03).all()


def test_exchange_goes_on_after_the_spoiler():
    """A saturated pool keeps draining water until the readout."""
    document = WITHOUT_MT | {
        "water_pool": {"f": 1.0, "t1": 4.0, "t2": 0.1},
        "cest_pool": {"amide": {"f": 0.1, "k": 20.0, "t1": 4.0, "t2": 0.05, "dw": 3.5}},
    }
    saturate = Rf(5.0, 0.05, 3.5 * FREQUENCY)
    delays = (0.0, 0.01, 0.04)
    volumes = [[saturate, Gradient(), Rest(t)] for t in delays]
    blocks = [b for v in volumes for b in (Rest(15.0), *v, Read())]
    z = simulated(protocol_of(blocks), read_pools(document))[:, 0]
    np.testing.assert_allclose(z, by_oracle(blocks, document), atol=1e-8)
    assert (np.diff(z) < -0.005).all()  # without exchange it could only recover
