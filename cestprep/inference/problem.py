"""The inverse problem of one stage: which parameters are free, what is known, what is compared."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference.noise import RESIDUAL
from cestprep.inference.recipe import AUXILIARY, FreeParameter, Normalization, Recipe, Stage
from cestprep.physics import simulate
from cestprep.physics.pools import Parameters, PoolModel
from cestprep.physics.protocol import Protocol


@dataclass(frozen=True)
class Observation:
    """Measured signals and what is known about each voxel; voxels last.

    Attributes
    ----------
    data : ndarray, shape (n_volumes, V)
        Measured magnitudes, any scale.
    known : ndarray, shape (q, V)
        Values of ``InverseProblem.known_parameters``, in package units.
    known_covariance : ndarray, shape (q, q, V)
        Their covariance; zeros where they count as exact.
    noise_sd : ndarray, shape (V,), or None
        SD of one volume in the units of ``data``; None where it is not known yet.
    noise_source : str
        Where it comes from: a `cestprep.inference.noise.Noise.source`, or `RESIDUAL` where there
        is none that is independent of the fit.
    """

    data: np.ndarray
    known: np.ndarray
    known_covariance: np.ndarray
    noise_sd: np.ndarray | None = None
    noise_source: str = RESIDUAL

    def __post_init__(self) -> None:
        q, v = self.known.shape
        if self.data.shape[1:] != (v,) or self.known_covariance.shape != (q, q, v):
            raise ValueError("data, known and known_covariance disagree on voxels or parameters")

    def take(self, voxels: np.ndarray) -> Observation:
        """The observation of some voxels (boolean mask or indices)."""
        return Observation(
            self.data[:, voxels],
            self.known[:, voxels],
            self.known_covariance[:, :, voxels],
            None if self.noise_sd is None else self.noise_sd[voxels],
            self.noise_source,
        )


@dataclass(frozen=True)
class InverseProblem:
    """Everything a method needs to know about a stage; hashable, so it can be a static argument.

    Attributes
    ----------
    protocol : Protocol
    model : PoolModel
    free : tuple of FreeParameter
    constants : tuple of (parameter, value)
    known_parameters : tuple of str
        Parameters known per voxel (auxiliary maps, then those handed on by earlier stages).
    normalization : {"unit-norm", "m0", "free-scale"}
        Under ``free-scale`` a free ``m0`` is relative to the voxel's largest signal.
    solver : str
        One of `cestprep.physics.solvers.SOLVERS`, or ``auto`` until it is chosen voxel by voxel
        (`cestprep.inference.solving`).
    """

    protocol: Protocol
    model: PoolModel
    free: tuple[FreeParameter, ...]
    constants: tuple[tuple[str, float], ...]
    known_parameters: tuple[str, ...]
    normalization: Normalization
    solver: str = "general"

    def __post_init__(self) -> None:
        if self.normalization == "m0" and not any(self.protocol.is_m0):
            raise ValueError("normalisation 'm0' needs a series with an m0scan volume")
        given = {f.parameter for f in self.free} | dict(self.constants).keys()
        given |= set(self.known_parameters) | {"m0"}
        missing = sorted(set(self.model.parameter_names) - given)
        if missing:
            raise ValueError(f"no origin for model parameters {', '.join(missing)}")

    @classmethod
    def of_stage(
        cls, recipe: Recipe, stage: Stage, protocol: Protocol, solver: str = "general"
    ) -> InverseProblem:
        """The problem a recipe's stage poses for a protocol."""
        known = [AUXILIARY[key] for key in stage.auxiliary]
        return cls(
            protocol=protocol,
            model=recipe.pool_model(stage),
            free=stage.free,
            constants=tuple((name, c.value) for name, c in stage.constants),
            known_parameters=(*known, *(name for name, _, _ in stage.inherited)),
            normalization=stage.normalization,
            solver=solver,
        )

    @property
    def bounds(self) -> np.ndarray:
        """Bounds of the free parameters in package units, shape (p, 2)."""
        return np.array([[f.low * f.to_si, f.high * f.to_si] for f in self.free])

    def parameters(self, theta: Array, known: Array) -> Parameters:
        """Simulator parameters from free values ``(p, V)`` and known values ``(q, V)``."""
        dtype = theta.dtype
        named = {name: jnp.asarray(value, dtype) for name, value in self.constants}
        named |= {"m0": jnp.ones((), dtype)}
        named |= dict(zip(self.known_parameters, known, strict=True))
        named |= {f.parameter: theta[i] for i, f in enumerate(self.free)}
        return named

    def signal(self, theta: Array, known: Array) -> Array:
        """Simulated magnitudes before normalisation, shape (n_volumes, V)."""
        p = self.parameters(theta, known)
        return jnp.abs(simulate.signal(self.protocol, self.model, p, self.solver))

    def predict(self, theta: Array, known: Array) -> Array:
        """Simulated signal, normalised like `normalize` does with data (free-scale: unchanged)."""
        z = self.signal(theta, known)
        return z if self.normalization == "free-scale" else self.normalize(z)

    def scale(self, data: Array) -> Array:
        """Divisor of each voxel's signal, shape (V,)."""
        if self.normalization == "unit-norm":
            return jnp.sqrt(jnp.sum(data**2, axis=0))
        if self.normalization == "m0":
            return jnp.mean(data[np.array(self.protocol.is_m0)], axis=0)
        return jnp.max(data, axis=0)

    def normalize(self, data: Array) -> Array:
        """Signals divided by `scale`; a voxel without signal stays zero."""
        scale = self.scale(data)
        return jnp.where(scale > 0, data / jnp.where(scale > 0, scale, 1.0), 0.0)

    def linearize(self, theta: Array, known: Array) -> tuple[Array, Array]:
        """Prediction ``(n, V)`` and its exact Jacobian in the free parameters, ``(p, n, V)``."""
        return simulate.value_and_tangents(lambda t: self.predict(t, known), theta)

    def known_tangents(self, theta: Array, known: Array) -> Array:
        """Jacobian of the prediction in the known parameters, shape (q, n, V)."""
        return simulate.value_and_tangents(lambda b: self.predict(theta, b), known)[1]


#: `InverseProblem.predict`, compiled once per problem.
predict_voxels = jax.jit(InverseProblem.predict, static_argnums=0)
