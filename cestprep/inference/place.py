"""Where parameters lie in a posterior: what coverage and calibration ranks are made of."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Place(NamedTuple):
    """Where given parameters lie in a posterior, as shares of its mass.

    Uniform over truths drawn from the prior if the posterior is calibrated.

    Attributes
    ----------
    above : Array, shape (V,)
        Of what is denser than there: the highest-density region of level c holds the parameters
        where this is below c.
    below : Array, shape (p, V)
        Of smaller values, for each parameter.
    """

    above: Array
    below: Array
