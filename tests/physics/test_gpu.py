"""Numbers on a GPU are those on the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import voxels as vx

from cestprep.physics import simulate


@pytest.mark.gpu
@pytest.mark.parametrize("solver", ["general", "reduced"])
@pytest.mark.parametrize("continuous_wave", [True, False], ids=["cw", "spinlock"])
@pytest.mark.parametrize(
    ("names", "offset"),
    [(("semisolid",), 8.0), (("amide", "semisolid"), 3.5)],
    ids=["2pools", "3pools"],
)
def test_forward_and_jacobian_agree_with_the_cpu(solver, continuous_wave, names, offset):
    """Within 1e-3 of the largest, in float32."""
    protocol = vx.protocol(
        vx.rows([offset] * 6, continuous_wave), 127.73, vx.READOUT[continuous_wave]
    )
    model = vx.model(names)
    p = vx.parameters(names, vx.random_voxels(names, 64, 3), np.float32)
    free = [f"{names[0]}.fraction", f"{names[0]}.k_exchange"]

    @jax.jit
    def both(p):
        def of(x):
            return simulate.signal(protocol, model, p | dict(zip(free, x, strict=True)), solver)

        return simulate.value_and_tangents(of, jnp.stack([p[n] for n in free]))

    def on(kind):
        device = jax.devices(kind)[0]
        z, slopes = both(jax.device_put(p, device))
        assert z.devices() == slopes.devices() == {device}
        return np.asarray(z), *np.asarray(slopes)

    for got, want in zip(on("gpu"), on("cpu"), strict=True):
        largest = np.abs(want).max()
        assert largest > 0
        np.testing.assert_allclose(got, want, atol=1e-3 * largest, rtol=0)
