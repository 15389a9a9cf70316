"""The simulator against an independent float64 oracle, exact cases and finite differences."""

from __future__ import annotations

import jax
import numpy as np
import oracle
import pytest
import voxels as vx

from cestprep.physics import affine, bloch, simulate
from cestprep.physics.protocol import Protocol, Pulse, Readout, Recovery, Saturation, Spoil
from cestprep.physics.waveforms import Waveform

FREQUENCIES = {"3T": 127.73, "7T": 298.035, "9.4T": 400.2}
OFFSETS = {
    "semisolid": [8.0, 6.0, 10.0, 14.0, 6.0, 8.0],
    "amide": [3.5] * 6,
    "spectrum": [0.0, 0.05, -0.3, -3.5, 1.0, 3.5],
}
CASES = [
    (("semisolid",), "semisolid"),
    (("amide",), "amide"),
    (("amide", "semisolid"), "amide"),
    (("amide", "semisolid"), "spectrum"),
]


def compiled(protocol, model):
    """Signal and directional derivative of a protocol."""

    def simulated(p):
        return simulate.signal(protocol, model, p)

    def slope(p, direction):
        return jax.jvp(simulated, (p,), (direction,))[1]

    return jax.jit(simulated), jax.jit(slope)


def direction(p, key):
    return {k: np.full_like(v, k == key) for k, v in p.items()}


def both(names, offsets, frequency, continuous_wave, dtype, n=4, seed=1, **conventions):
    volumes = vx.rows(OFFSETS[offsets], continuous_wave)
    readout = vx.READOUT[continuous_wave]
    sample = vx.random_voxels(names, n, seed)
    protocol = vx.protocol(volumes, frequency, readout)
    model = vx.model(names, **conventions)
    got = compiled(protocol, model)[0](vx.parameters(names, sample, dtype))
    options = {"mt": model.mt, "rebalance": model.pools_rebalance}
    want = [oracle.signal(volumes, frequency, pools, w, readout, **options) for w, pools in sample]
    assert got.dtype == dtype
    return np.asarray(got), np.array(want).T


@pytest.mark.parametrize("frequency", FREQUENCIES.values(), ids=FREQUENCIES)
@pytest.mark.parametrize("continuous_wave", [True, False], ids=["cw", "spinlock"])
@pytest.mark.parametrize(("names", "offsets"), CASES, ids=["mt", "cest", "3pool", "3pool-spectrum"])
class TestAgainstOracle:
    def test_float64(self, x64, names, offsets, continuous_wave, frequency):
        got, want = both(names, offsets, frequency, continuous_wave, np.float64)
        np.testing.assert_allclose(got, want, atol=1e-8, rtol=0)

    def test_float32(self, names, offsets, continuous_wave, frequency):
        got, want = both(names, offsets, frequency, continuous_wave, np.float32)
        np.testing.assert_allclose(got, want, atol=3e-5, rtol=0)


@pytest.mark.parametrize("rebalance", [True, False])
@pytest.mark.parametrize("mt", ["z", "xyz"])
@pytest.mark.parametrize("continuous_wave", [True, False], ids=["cw", "spinlock"])
def test_conventions(x64, mt, rebalance, continuous_wave):
    names = ("amide", "semisolid")
    conventions = {"mt": mt, "pools_rebalance": rebalance}
    got, want = both(names, "amide", 298.035, continuous_wave, np.float64, **conventions)
    np.testing.assert_allclose(got, want, atol=1e-8, rtol=0)


def test_conventions_differ(x64):
    """The comparison above would be empty if a convention changed nothing."""
    names = ("amide", "semisolid")
    z, _ = both(names, "amide", 298.035, False, np.float64, mt="z")
    xyz, _ = both(names, "amide", 298.035, False, np.float64, mt="xyz")
    free, _ = both(names, "amide", 298.035, False, np.float64, pools_rebalance=False)
    assert abs(z - xyz).max() > 1e-3
    assert abs(z - free).max() > 1e-4


@pytest.mark.parametrize("continuous_wave", [True, False], ids=["cw", "spinlock"])
def test_jacobian_equals_finite_differences(x64, continuous_wave):
    names = ("amide", "semisolid")
    sample = vx.random_voxels(names, 3, 5)
    protocol = vx.protocol(
        vx.rows(OFFSETS["amide"], continuous_wave), 298.035, vx.READOUT[continuous_wave]
    )
    model = vx.model(names)
    p = vx.parameters(names, sample)

    simulated, slope = compiled(protocol, model)

    def at(key, value):
        return simulated({**p, key: value})

    for key in p:
        if key == "m0":
            continue
        # 1 ppm turns the phase of a long pulse by thousands of rad: small steps for offsets and B1
        h = 3e-6 if key.endswith("_ppm") else (3e-6 if key == "b1_scale" else 1e-4) * p[key]
        # five-point stencil: truncation below rounding
        stencil = ((1, -2), (-8, -1), (8, 1), (-1, 2))
        fd = sum(w * at(key, p[key] + i * h) for w, i in stencil) / (12 * h)
        exact = slope(p, direction(p, key))
        largest = np.abs(exact).max()
        assert largest > 0, key
        np.testing.assert_allclose(exact, fd, atol=1e-5 * largest, rtol=0, err_msg=key)


def test_no_nan_where_nothing_happens():
    """B1 = 0, f = 0, k = 0, on resonance: finite values and derivatives."""
    names = ("amide", "semisolid")
    volumes = [
        (0.0, None),
        (1.0, (0.0, 0.0, 2.5, 1, 0.0, False)),
        (1.0, (0.0, 2.0, 0.1, 3, 0.1, True)),
    ]
    protocol = vx.protocol(volumes, 127.73, (90.0, 1, 0.0))
    sample = vx.random_voxels(names, 2, 0, b0_ppm=0.0)
    p = vx.parameters(names, sample, np.float32)
    p |= {k: 0 * v for k, v in p.items() if k.endswith(("fraction", "k_exchange"))}
    model = vx.model(names)
    simulated, slope = compiled(protocol, model)
    assert np.isfinite(simulated(p)).all()
    for key in p:
        assert np.isfinite(slope(p, direction(p, key))).all(), key


def test_one_bad_voxel_leaves_the_others_alone():
    names = ("semisolid",)
    protocol = vx.protocol(vx.rows(OFFSETS["semisolid"], True), 298.0, (90.0, 1, 0.0))
    p = vx.parameters(names, vx.random_voxels(names, 3, 2), np.float32)
    simulated, _ = compiled(protocol, vx.model(names))
    clean = simulated(p)
    spoiled = simulated({**p, "t1": np.array([p["t1"][0], np.nan, p["t1"][2]])})
    np.testing.assert_allclose(spoiled[:, [0, 2]], clean[:, [0, 2]], rtol=1e-6)


class TestSymmetries:
    def simulate(
        self, p, offsets=OFFSETS["amide"], names=("amide", "semisolid"), continuous_wave=True
    ):
        protocol = vx.protocol(vx.rows(offsets, continuous_wave), 298.035, (90.0, 1, 0.0))
        return np.asarray(compiled(protocol, vx.model(names))[0](p))

    def test_b0_shift_equals_offset_shift(self, x64):
        p = vx.parameters(("amide", "semisolid"), vx.random_voxels(("amide", "semisolid"), 2, 3))
        shifted = {**p, "b0_ppm": p["b0_ppm"] + 0.4}
        moved = self.simulate(shifted, [o + 0.4 for o in OFFSETS["amide"]])
        np.testing.assert_allclose(moved, self.simulate(p), atol=1e-10)

    @pytest.mark.parametrize("continuous_wave", [True, False], ids=["cw", "spinlock"])
    def test_mirror(self, x64, continuous_wave):
        p = vx.parameters(("amide", "semisolid"), vx.random_voxels(("amide", "semisolid"), 2, 3))
        flip = {k: -v if k == "b0_ppm" or k.endswith("offset_ppm") else v for k, v in p.items()}
        mirrored = self.simulate(
            flip, [-o for o in OFFSETS["amide"]], continuous_wave=continuous_wave
        )
        plain = self.simulate(p, continuous_wave=continuous_wave)
        np.testing.assert_allclose(mirrored, plain, atol=1e-10)

    def test_amide_is_downfield(self, x64):
        p = vx.parameters(("amide", "semisolid"), vx.random_voxels(("amide", "semisolid"), 2, 3))
        p |= {"amide.fraction": np.full(2, 0.01), "amide.k_exchange": np.full(2, 100.0)}
        p |= {"b0_ppm": np.zeros(2)}
        at_amide = self.simulate(p)[1]
        opposite = self.simulate(p, [-3.5] * 6)[1]
        assert (at_amide < opposite - 0.01).all()

    def test_empty_pool_is_bloch(self, x64):
        p = vx.parameters(("amide", "semisolid"), vx.random_voxels(("amide", "semisolid"), 2, 4))
        empty = {**p, "amide.fraction": np.zeros(2)}
        without = self.simulate(
            {k: v for k, v in p.items() if not k.startswith("amide")}, names=("semisolid",)
        )
        np.testing.assert_allclose(self.simulate(empty), without, atol=1e-10)

    def test_scale(self, x64):
        p = vx.parameters(("semisolid",), vx.random_voxels(("semisolid",), 2, 6))
        one = self.simulate(p, names=("semisolid",))
        three = self.simulate({**p, "m0": 3 * p["m0"]}, names=("semisolid",))
        np.testing.assert_allclose(three, 3 * one, rtol=1e-12)

    def test_splitting_a_pulse_changes_nothing(self, x64):
        """The carrier runs on; a phase that does not makes a difference."""
        names = ("amide", "semisolid")
        length, phase, frequency = 0.05, 0.4, 127.73
        p = vx.parameters(names, vx.random_voxels(names, 2, 9))
        half = Waveform.rectangular(length / 2)
        for offset in (0.2, -1.0):
            rest = np.pi * offset * frequency * length
            whole = Pulse(Waveform.rectangular(length), 2.0, offset, phase)
            splits = [
                (Pulse(half, 2.0, offset, phase), Pulse(half, 2.0, offset, phase + turn))
                for turn in (rest, rest + 1.0)
            ]
            wave = Saturation(offset, 2.0, length)
            preparations = ((whole,), (wave,), *splits)
            blocks = [
                b
                for q in preparations
                for b in (Recovery(1.0), *q, Spoil(), Readout(0.0, reset=1.0))
            ]
            protocol = Protocol(tuple(blocks), frequency, (False,) * len(preparations))
            one, continuous, two, broken = compiled(protocol, vx.model(names))[0](p)
            np.testing.assert_allclose(continuous, one, atol=1e-12)
            np.testing.assert_allclose(two, one, atol=1e-10)
            assert (abs(broken - one) > 1e-3).all()

    def test_equilibrium_stays_put(self, x64):
        """Detailed balance: what flows from water into a pool flows back, each with its own T1."""
        names = ("amide", "semisolid")
        p = vx.parameters(names, vx.random_voxels(names, 3, 10))
        p |= {"amide.t1": np.full(3, 0.7), "semisolid.t1": np.full(3, 0.4)}
        balance = np.stack([np.ones(3), p["amide.fraction"], p["semisolid.fraction"]])
        for mt in ("z", "xyz"):
            model = vx.model(names, mt=mt, pools_rebalance=False)
            still = bloch.Field.of(np.zeros(3), np.ones(3), 127.73, p)
            places = bloch.z_indices(model)
            everything = np.asarray(bloch.generator(model, p, still))
            longitudinal = np.asarray(bloch.longitudinal_generator(model, p, water_only=False))
            slow = everything[np.ix_(places, [*places, -1])]
            for g in (longitudinal, slow):
                rates = np.einsum("ijv,jv->iv", g[:, :-1], balance) + g[:, -1]
                np.testing.assert_allclose(rates, 0, atol=1e-12)
                for i in (1, 2):
                    assert (g[0, i] > 0).all()
                    np.testing.assert_allclose(g[i, 0], g[0, i] * balance[i], rtol=1e-12)
                np.testing.assert_array_equal(g[1, 2], 0)

    def test_exchange_keeps_the_sum(self, x64):
        """From any start, without relaxation, nothing is lost and the ratio ends in balance."""
        names = ("amide", "semisolid")
        p = vx.parameters(names, vx.random_voxels(names, 3, 11))
        p |= {"t1": np.full(3, 1e15)}
        generator = bloch.longitudinal_generator(vx.model(names), p, water_only=False)
        start = np.random.default_rng(0).uniform(-1, 1, (3, 3))
        balance = np.stack([np.ones(3), p["amide.fraction"], p["semisolid.fraction"]])
        for duration in (1e-3, 0.1, 30.0):
            end = np.asarray(affine.apply(affine.exponential(generator, duration), start))
            np.testing.assert_allclose(end.sum(axis=0), start.sum(axis=0), atol=1e-10)
        want = balance * start.sum(axis=0) / balance.sum(axis=0)
        np.testing.assert_allclose(end, want, atol=1e-9)


def test_long_continuous_wave_reaches_the_analytic_steady_state(x64):
    """Water alone, saturated for 60 s: the textbook Bloch steady state."""
    t1, t2, b1, offset, frequency = 1.2, 0.08, 1.5, 0.7, 127.73
    volumes = [(0.0, (offset, b1, 60.0, 1, 0.0, False))]
    protocol = vx.protocol(volumes, frequency, (90.0, 1, 0.0))
    p = {"t1": np.array([t1]), "t2": np.array([t2]), "b0_ppm": np.zeros(1), "b1_scale": np.ones(1),
         "m0": np.ones(1)}  # fmt: skip
    got = compiled(protocol, vx.model(()))[0](p)[0, 0]
    w1, dw = 2 * np.pi * 42.5764 * b1, 2 * np.pi * frequency * offset
    want = (1 + (dw * t2) ** 2) / (1 + (dw * t2) ** 2 + w1**2 * t1 * t2)
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_missing_parameter_is_named():
    protocol = vx.protocol([(0.0, None)], 127.0, (90.0, 1, 0.0))
    with pytest.raises(KeyError, match=r"semisolid\.fraction"):
        simulate.signal(protocol, vx.model(("semisolid",)), {"t1": np.ones(1)})


def test_parameters_may_be_scalars_or_arrays(x64):
    """A recipe's constants are scalars; only some parameters vary between voxels."""
    names = ("amide", "semisolid")
    p = vx.parameters(names, vx.random_voxels(names, 3, 8))
    p |= {k: np.full(3, v[0]) for k, v in p.items() if not k.startswith("amide")}
    mixed = {k: v if k.startswith("amide") else v[0] for k, v in p.items()}
    for rebalance in (True, False):
        protocol = vx.protocol(vx.rows(OFFSETS["amide"], True), 298.0, (90.0, 1, 0.0))
        simulated, _ = compiled(protocol, vx.model(names, pools_rebalance=rebalance))
        np.testing.assert_allclose(simulated(mixed), simulated(p), atol=1e-13)
