"""The simulator as a GPU gets it, without one: what XLA is given is plain float32 arithmetic."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voxels as vx
from jax import export
from programs import PLATFORMS, faults, lowered

from cestprep.physics import simulate
from cestprep.physics.protocol import Protocol, Pulse, Readout, Recovery, Spoil
from cestprep.physics.waveforms import Waveform

NAMES = {"2pools": ("semisolid",), "3pools": ("amide", "semisolid")}
N_VOXELS = 8


def spin_lock(names):
    offsets = [3.5] * 6 if "amide" in names else [8.0, 6.0, 10.0, 14.0, 6.0, 8.0]
    return vx.protocol(vx.rows(offsets, False), 127.73, vx.READOUT[False])


def shaped(names):
    """Two Gaussian pulses per volume, a second apart."""
    del names
    envelope = np.exp(-0.5 * ((np.arange(64) - 31.5) / 12) ** 2)
    wave = Waveform(np.full(64, 0.05 / 64), envelope)
    blocks = []
    for b1 in (2.0, 0.8):
        pulses = (Pulse(wave, b1, 3.5), Recovery(0.01), Pulse(wave, b1, 3.5, 0.3))
        blocks += [Recovery(1.0), *pulses, Spoil(), Readout(90.0)]
    return Protocol(tuple(blocks), 127.73, (False, False))


def continuous(names):
    return vx.protocol(vx.rows([3.5 if "amide" in names else 8.0] * 6, True), 298.035, (90.0,))


CASES = [
    pytest.param(solver, made, names, id=f"{solver}-{made.__name__}-{pools}",
                 marks=[pytest.mark.slow] if pools == "2pools" else [])
    for solver, protocols in {
        "general": (spin_lock, shaped), "reduced": (spin_lock, continuous)
    }.items()
    for made in protocols
    for pools, names in NAMES.items()
]  # fmt: skip


def forward_and_jacobian(protocol, model, names, solver):
    """Signal, and its derivatives by fraction and rate of the first pool."""
    free = [f"{names[0]}.fraction", f"{names[0]}.k_exchange"]

    def signal(p):
        return simulate.signal(protocol, model, p, solver)

    def jacobian(p):
        def of(x):
            return signal(p | dict(zip(free, x, strict=True)))

        return simulate.value_and_tangents(of, jnp.stack([p[n] for n in free]))

    return signal, jacobian


@pytest.mark.parametrize(("solver", "made", "names"), CASES)
def test_exported_program_is_plain_float32_and_gives_the_same_numbers(solver, made, names):
    p = vx.parameters(names, vx.random_voxels(names, N_VOXELS, 3), np.float32)
    shapes = {key: jax.ShapeDtypeStruct(v.shape, v.dtype) for key, v in p.items()}
    results = []
    signal, jacobian = forward_and_jacobian(made(names), vx.model(names), names, solver)
    for fun in (signal, jacobian):
        exported = export.export(jax.jit(fun), platforms=PLATFORMS)(shapes)
        assert exported.platforms == PLATFORMS
        assert faults(exported.mlir_module()) == []
        results.append(jax.jit(exported.call)(p))
    z, (same_z, slopes) = results
    want_z, want_slopes = jax.jit(jacobian)(p)
    for got, want in ((z, want_z), (same_z, want_z), (slopes, want_slopes)):
        assert got.dtype == np.float32
        assert np.abs(want).max() > 0
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


class TestTheCheckItself:
    vector = jax.ShapeDtypeStruct((3,), np.float32)
    matrix = jax.ShapeDtypeStruct((5, 3, 3), np.float32)

    def test_passes_arithmetic(self):
        assert faults(lowered(lambda x: jnp.exp(x) * 2, self.vector)) == []

    def test_finds_a_lapack_solve(self):
        found = faults(lowered(lambda a: jnp.linalg.solve(a, a), self.matrix))
        assert any("lapack" in f for f in found)
        assert any("cusolver" in f or "cublas" in f for f in found)

    def test_finds_a_float64_constant(self):
        with jax.enable_x64(True):
            table = np.array([1.0, 2.0, 3.0])
            text = lowered(lambda x: (x * table).astype(np.float32), self.vector)
        assert "double precision: 3xf64" in faults(text)

    def test_finds_a_callback(self):
        def called(x):
            return jax.pure_callback(np.sin, self.vector, x)

        found = faults(lowered(called, self.vector, platforms=("cpu",)))
        assert any(f.startswith("host callback") for f in found)
        assert any(f.startswith("custom call") for f in found)
        with pytest.raises(NotImplementedError, match="callback"):  # JAX's own refusal
            lowered(called, self.vector)

    def test_finds_a_dynamic_shape(self):
        (n,) = export.symbolic_shape("n")
        shape = jax.ShapeDtypeStruct((n,), np.float32)
        text = export.export(jax.jit(lambda x: x + 1), platforms=PLATFORMS)(shape).mlir_module()
        assert "dynamic shape: ?xf32" in faults(text)
