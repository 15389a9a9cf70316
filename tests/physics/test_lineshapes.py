"""Lineshapes of the semisolid pool against quadrature, finite differences and the oracle."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import voxels as vx
from scipy.integrate import quad

from cestprep.inference.recipe import Recipe, RecipeError
from cestprep.physics import simulate
from cestprep.physics.lineshapes import LINESHAPES, SUPER_LORENTZIAN_CUTOFF
from cestprep.physics.pools import ExchangingPool, PoolModel

T2S = [5e-6, 1e-5, 2e-5, 5e-5]
CUTOFF = SUPER_LORENTZIAN_CUTOFF
EVERY = pytest.mark.parametrize("name", LINESHAPES)


def shape(name):
    return jax.jit(LINESHAPES[name])


def slopes(name, offsets, t2, dtype=np.float64):
    """Derivatives by offset and by T2, forward mode."""
    offsets, t2 = np.asarray(offsets, dtype), np.full(np.shape(offsets), t2, dtype)
    one, zero = np.ones_like(offsets), np.zeros_like(offsets)

    def slope(direction):
        return np.asarray(jax.jvp(shape(name), (offsets, t2), direction)[1])

    return slope((one, zero)), slope((zero, one))


def test_names():
    assert list(LINESHAPES) == ["lorentzian", "superlorentzian", "gaussian"]


@EVERY
@pytest.mark.parametrize("t2", T2S)
def test_against_quadrature(x64, name, t2):
    offsets = np.geomspace(CUTOFF, 100 / t2, 120)
    want = np.array([oracle.LINESHAPES[name](d, t2) for d in offsets])
    np.testing.assert_allclose(shape(name)(offsets, t2), want, rtol=2e-6, atol=1e-300)


@pytest.mark.parametrize("name", ["lorentzian", "gaussian"])
def test_unit_area(x64, name):
    area = quad(lambda x: float(shape(name)(x / 1e-5, 1e-5)) / 1e-5, -np.inf, np.inf)[0]
    assert area == pytest.approx(1, abs=1e-7)


def test_super_lorentzian_area_outside_the_cutoff(x64):
    t2 = 1e-5

    def area(g):
        return quad(lambda s: float(g(np.exp(s), t2)) * np.exp(s), np.log(CUTOFF), np.log(10 / t2))

    ours, integral = area(shape("superlorentzian"))[0], area(oracle.super_lorentzian)[0]
    assert ours == pytest.approx(integral, rel=1e-6)
    # the singularity is integrable: little is missing
    assert 0.95 < 2 * ours < 1


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_even_and_falling(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        offsets = np.linspace(0, 3e5, 3001, dtype=dtype)
        t2 = dtype(1e-5)
        values = np.asarray(shape(name)(offsets, t2))
        np.testing.assert_array_equal(values, shape(name)(-offsets, t2))
    assert values.dtype == dtype
    assert (np.diff(values) < 1e-6 * values[:-1]).all()
    assert values[0] > values[-1]


@EVERY
def test_float32(name):
    offsets = np.concatenate([[0.0, CUTOFF], np.geomspace(1.0, 6e5, 200)])
    with jax.enable_x64(True):
        exact = np.asarray(shape(name)(offsets, 1e-5))
    got = shape(name)(offsets.astype(np.float32), np.float32(1e-5))
    np.testing.assert_allclose(got, exact, rtol=2e-5, atol=1e-12)


@EVERY
@pytest.mark.parametrize("t2", T2S)
def test_slopes_equal_finite_differences(x64, name, t2):
    g = shape(name)
    offsets = np.concatenate([[0.0], CUTOFF * np.array([0.3, 0.9, 1.1, 2, 5]), [1 / t2, 5 / t2]])
    scale = np.maximum(offsets, CUTOFF) if name == "superlorentzian" else 1 / t2
    h, dt = 1e-3 * scale, 1e-3 * t2
    by_offset, by_t2 = slopes(name, offsets, t2)
    steps = ((1, -2), (-8, -1), (8, 1), (-1, 2))
    want = sum(w * g(offsets + i * h, t2) for w, i in steps) / (12 * h)
    np.testing.assert_allclose(by_offset, want, rtol=2e-5, atol=1e-9 * t2**2)
    want = sum(w * g(offsets, t2 + i * dt) for w, i in steps) / (12 * dt)
    np.testing.assert_allclose(by_t2, want, rtol=2e-5, atol=1e-9)
    assert by_offset[0] == 0


@pytest.mark.parametrize("t2", T2S)
def test_super_lorentzian_slope_against_quadrature(x64, t2):
    offsets = np.geomspace(1.01 * CUTOFF, 8 / t2, 60)
    got, _ = slopes("superlorentzian", offsets, t2)
    h = 1e-3 * offsets
    up, down = (
        np.array([oracle.super_lorentzian(d, t2) for d in offsets + i * h]) for i in (1, -1)
    )
    np.testing.assert_allclose(got, (up - down) / (2 * h), rtol=1e-3)


@pytest.mark.parametrize("t2", T2S)
def test_super_lorentzian_joins_at_the_cutoff(x64, t2):
    offsets = CUTOFF * np.array([1 - 1e-9, 1 + 1e-9])
    below, above = np.asarray(shape("superlorentzian")(offsets, t2))
    assert below == pytest.approx(above, rel=1e-8)
    below, above = slopes("superlorentzian", offsets, t2)[0]
    assert below < 0
    assert below == pytest.approx(above, rel=1e-6)
    peak = shape("superlorentzian")(0.0, t2)
    assert peak == pytest.approx(oracle.super_lorentzian_integral(CUTOFF / 2, t2), rel=1e-5)


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_at_extremes(name, dtype):
    with jax.enable_x64(dtype == np.float64):
        for t2 in (0.0, 1e-9, 1e-5, 1e-2, 100.0):
            offsets = np.array([0.0, 1e-20, CUTOFF, 1e3, 1e6], dtype)
            offsets = np.concatenate([offsets, -offsets])
            assert np.isfinite(shape(name)(offsets, dtype(t2))).all()
            for slope in slopes(name, offsets, t2, dtype):
                assert np.isfinite(slope).all()


@EVERY
def test_elementwise_and_exportable(name):
    offsets, t2 = np.ones((4, 1), np.float32) * 3e3, np.full(5, 1e-5, np.float32)
    assert LINESHAPES[name](offsets, t2).shape == (4, 5)
    text = jax.jit(LINESHAPES[name]).lower(offsets, t2).as_text()
    assert "custom_call" not in text
    bad = jnp.where(jnp.arange(5) == 1, jnp.nan, t2)
    assert np.isnan(LINESHAPES[name](offsets, bad)).all(axis=0).tolist() == [0, 1, 0, 0, 0]


@EVERY
def test_signal_equals_oracle(x64, name):
    """Two voxels and three pools, RF from resonance through the cut-off to far off."""
    names, frequency = ("amide", "semisolid"), 127.73
    volumes = vx.rows([0.0, 0.6, -3.5, 10.0, 3.5, -80.0], continuous_wave=True)
    readout = vx.READOUT[True]
    sample = vx.random_voxels(names, 2, 11)
    for i, (_, pools) in enumerate(sample):
        pools[1] |= {"t2": (9e-6, 2e-5)[i], "shift": -2.0, "lineshape": name}
    model = PoolModel((ExchangingPool("amide", "cest"), ExchangingPool("semisolid", "mt", name)))
    protocol = vx.protocol(volumes, frequency, readout)
    got = jax.jit(lambda p: simulate.signal(protocol, model, p))(vx.parameters(names, sample))
    want = [oracle.signal(volumes, frequency, pools, w, readout) for w, pools in sample]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.array(want).T, atol=1e-6, rtol=0)


def test_lineshapes_differ():
    values = [float(LINESHAPES[name](2e4, 1e-5)) for name in LINESHAPES]
    assert np.ptp(values) > 0.3 * max(values)


def test_unknown_lineshape_is_named():
    with pytest.raises(ValueError, match="one of lorentzian, superlorentzian, gaussian"):
        ExchangingPool("semisolid", "mt", "voigt")


def test_full_bloch_pool_is_lorentzian():
    with pytest.raises(ValueError, match="semisolid: under mt 'xyz'"):
        PoolModel((ExchangingPool("semisolid", "mt", "gaussian"),), mt="xyz")


def recipe(lineshape, mt="z"):
    def fixed(value, unit):
        return {"value": value, "unit": unit, "source": "test"}

    pool = {"name": "semisolid", "kind": "mt", "lineshape": lineshape}
    pool |= {"offset_ppm": fixed(0.0, "ppm"), "t2": fixed(1e-5, "s")}
    free = {
        "fss": {"parameter": "semisolid.fraction", "range": [0, 30], "unit": "percent"},
        "kssw": {"parameter": "semisolid.k_exchange", "range": [0, 100], "unit": "1/s"},
    }
    stage = {"name": "mt", "target": "mt", "model": "bm2poolmt", "pools": [pool], "free": free}
    return Recipe.from_mapping(
        {"name": "test", "field_t": 3.0, "conventions": {"mt": mt}, "stages": [stage]}
    )


@EVERY
def test_recipes_may_choose(name):
    assert recipe(name).stages[0].pools[0].lineshape == name


def test_recipes_that_choose_wrongly():
    with pytest.raises(RecipeError, match=r"pools\.semisolid\.lineshape: found 'voigt'"):
        recipe("voigt")
    with pytest.raises(RecipeError, match=r"stage mt\.pools: semisolid: under mt 'xyz'"):
        recipe("gaussian", mt="xyz")
