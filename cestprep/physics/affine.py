"""Affine maps ``x -> M x + c`` of small state vectors, one per voxel.

A map is an array of shape ``(n, n + 1, ...)``: the matrix and, as last column, the constant.
Trailing axes are batch axes (saturations, voxels), voxels last, so that every operation is an
elementwise loop over voxels.  No LAPACK call is made: two batched LAPACK solves in one XLA:CPU
program can deadlock.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

#: No tissue needs as many; an absurd rate must not keep the others waiting.
_MOST_SQUARINGS = 64


def _product(left: Array, right: Array) -> Array:
    """Product of the matrix part of ``left`` with all columns of ``right``."""
    n = right.shape[0]
    total = left[:, 0, None] * right[0][None]
    for k in range(1, n):
        total = total + left[:, k, None] * right[k][None]
    return total


def compose(second: Array, first: Array) -> Array:
    """Map that applies ``first``, then ``second``; ``first`` may start from fewer states."""
    return _product(second, first).at[:, -1].add(second[:, -1])


def identity(n: int, like: Array) -> Array:
    """Identity map of ``n`` states, with the batch axes and dtype of ``like``."""
    eye = jnp.eye(n, n + 1, dtype=like.dtype).reshape(n, n + 1, *[1] * (like.ndim - 2))
    return jnp.broadcast_to(eye, (n, n + 1, *like.shape[2:]))


def power(amap: Array, count: int, last: Array | None = None) -> Array:
    """``amap`` applied ``count`` times (static, >= 0), and ``last``, if given, after that."""
    result = last
    while count:
        if count & 1:
            result = amap if result is None else compose(result, amap)
        count >>= 1
        if count:
            amap = compose(amap, amap)
    return identity(amap.shape[0], amap) if result is None else result


def apply(amap: Array, state: Array) -> Array:
    """Image of ``state``, shape ``(n, ...)``."""
    return _product(amap, state[:, None])[:, 0] + amap[:, -1]


def exponential(generator: Array, duration_s: Array | float) -> Array:
    """Flow of ``dx/dt = A x + c`` after ``duration_s``, as an affine map.

    Scaling and squaring of a Taylor series, carried out on ``exp - 1`` so that slow
    modes keep their relative precision in float32 beside fast ones.

    Parameters
    ----------
    generator : Array, shape (n, n + 1, ...)
        ``[A | c]`` in 1/s.
    duration_s : Array or float
        Duration in s; broadcast against the batch axes.
    """
    a = generator * duration_s
    if a.shape[0] == 1:
        return _exponential_of_one(a)
    # truncation: step**order / (order + 1)! of the phase of the fastest mode; in float32 each
    # squaring costs digits of that phase, so few of them
    order, step = 6, 0.03125 if a.dtype == jnp.float64 else 0.25
    # scaled voxel by voxel: the result does not depend on which voxels are computed together, and
    # a NaN stays in its own
    norm = jnp.max(jax.lax.stop_gradient(jnp.sum(jnp.abs(a[:, :-1]), axis=1)), axis=0)
    norm = jnp.where(jnp.isfinite(norm), norm, 0.0)
    squarings = jnp.ceil(jnp.log2(jnp.maximum(norm / step, 1.0))).astype(jnp.int32)
    squarings = jnp.minimum(squarings, _MOST_SQUARINGS)
    x = a * jnp.exp2(-squarings.astype(a.dtype))

    # a loop, not an expression: XLA would merge the products and repeat them in derivatives
    def horner(series: Array, k: Array) -> tuple[Array, None]:
        return (x + _product(x, series)) / k, None

    powers = jnp.arange(order - 1, 0, -1, dtype=a.dtype)
    series, _ = jax.lax.scan(horner, x / order, powers)

    def square(i: Array, e: Array) -> Array:
        return jnp.where(i < squarings, 2 * e + _product(e, e), e)

    e: Array = jax.lax.fori_loop(0, jnp.max(squarings), square, series)
    return e + identity(a.shape[0], a)


def _exponential_of_one(a: Array) -> Array:
    """Closed form for one state."""
    rate, source = a[0, 0], a[0, 1]
    safe = jnp.where(rate == 0, 1.0, rate)
    gain = jnp.where(rate == 0, 1.0, jnp.expm1(safe) / safe)
    return jnp.stack([jnp.exp(rate), source * gain])[None]
