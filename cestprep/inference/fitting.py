"""Training of networks with a Gaussian posterior: on simulated voxels, then on a subject's own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from cestprep.inference import amortized
from cestprep.inference.amortized import Measurements, Simulated
from cestprep.inference.chunks import Progress, phase
from cestprep.inference.likelihood import Voxels
from cestprep.inference.measured import Measured
from cestprep.inference.network import Network, features, infer
from cestprep.inference.options import within
from cestprep.inference.problem import InverseProblem, Observation
from cestprep.inference.residual import voxels_of
from cestprep.inference.training import (
    CHECKS,
    Part,
    Schedule,
    Store,
    Trained,
    Training,
    train,
)

#: With fewer voxels a subject's own say too little to train on.
FEWEST_VOXELS = 20
#: More of them are not needed, since a step sees a batch.
_MOST_VOXELS = 40_000
_OWN_CHECKS = 20
#: A measured voxel costs far more than a simulated one, so that a step sees that many times fewer.
_OWN_SHARE = 4


@dataclass(frozen=True)
class Options:
    """How networks are trained and used.

    Attributes
    ----------
    simulated : int
        Voxels drawn from the prior.
    steps : int
        Training on them.
    own_steps : int
        Training on the evidence of the subject's own voxels, along with simulated ones, after that.
    batch : int
        Voxels of a step.
    refine : bool
        Whether each voxel's answer is refined on its own data.
    """

    simulated: int = 200_000
    steps: int = 6000
    own_steps: int = 400
    batch: int = 512
    refine: bool = True

    def __post_init__(self) -> None:
        within(CHECKS, 1e7, steps=self.steps)
        within(1, 1e7, simulated=self.simulated)
        within(1, 1e5, batch=self.batch)
        within(_OWN_CHECKS, 1e7, own_steps=self.own_steps or None)


def learn(
    problem: InverseProblem,
    observation: Observation,
    options: Options,
    seed: int = 0,
    progress: Progress | None = None,
    store: Store | None = None,
) -> Trained | None:
    """Train on the prior, then on these voxels; None where none carries signal."""
    measured = Measured.of(problem, observation)
    if not measured.count:
        return None
    voxels = voxels_of(measured)
    listener = phase(progress, "simulated voxels")
    drawn = amortized.simulate(problem, voxels, options.simulated, seed, listener)
    aside = amortized.simulate(problem, voxels, 4 * options.batch, seed + 1)
    inputs = np.asarray(features(drawn.voxels._replace(data=drawn.clean)))
    network = Network.initial(inputs, len(problem.free), jax.random.key(seed))
    part = Part("prior", phase(progress, "training", "steps"), store)
    loss = amortized.truth_loss(problem, options.batch)
    datasets = on_device(drawn), on_device(aside)
    schedule = Schedule(options.steps)
    with ThreadPoolExecutor(1) as beside:  # what comes next is compiled meanwhile
        goes_on = bool(options.own_steps) and measured.count >= FEWEST_VOXELS
        some = _some(voxels)
        given = problem, some, network, datasets, options
        ready = beside.submit(_rehearsed, *given) if goes_on else None
        trained = train(network, loss, *datasets, schedule, jax.random.key(seed + 2), part)
    if ready is None:
        return trained
    mean, _ = infer(trained.network, some)
    data = amortized.measurements(problem, some, jnp.asarray(mean))
    own = _beside(datasets, halves(data))
    part = Part("own voxels", phase(progress, "training on its own voxels", "steps"), store)
    end = ready.result().run(trained.network, *own, jax.random.key(seed + 3), part)
    return Trained(end.network, trained.curve + end.curve)


def _some(voxels: Voxels) -> Voxels:
    count = voxels.data.shape[1]
    return voxels.take(np.linspace(0, count - 1, min(count, _MOST_VOXELS)).round().astype(int))


def _beside(simulated: tuple[Simulated, Simulated], own: tuple[Any, Any]) -> tuple[Any, Any]:
    """Simulated and own voxels to train on, and those kept aside."""
    return (simulated[0], own[0]), (simulated[1], own[1])


def _rehearsed(
    problem: InverseProblem,
    voxels: Voxels,
    network: Network,
    simulated: tuple[Simulated, Simulated],
    options: Options,
) -> Training:
    """Training by the evidence of measured voxels and the truth of simulated ones, compiled.

    The evidence alone is satisfied by a Gaussian inside the posterior, which is too narrow; the
    truth of simulated voxels asks for one around it.
    """
    nothing = jnp.zeros((len(problem.free), 1), voxels.data.dtype)
    along = amortized.measurements(problem, voxels.take(np.arange(1)), nothing).along
    blank = jnp.zeros((*along.shape[:2], voxels.data.shape[1]), along.dtype)
    own = _beside(simulated, halves(Measurements(voxels, blank)))
    batch = min(options.batch // _OWN_SHARE or 1, int(own[1][1].along.shape[-1]) * 4)
    truth = amortized.truth_loss(problem, options.batch)
    evidence = amortized.evidence_loss(problem, batch)

    def loss(network: Network, data: Any, key: Array) -> Array:
        return truth(network, data[0], key) + evidence(network, data[1], key)

    schedule = Schedule(options.own_steps, peak_rate=2e-4, checks=_OWN_CHECKS, patience=6)
    training = Training(network, loss, schedule)
    training.rehearse(network, *own)
    return training


def halves(data: Any) -> tuple[Any, Any]:
    """Voxels to train on, and every tenth, which is kept aside."""
    count = jax.tree.leaves(data)[0].shape[-1]
    aside = np.arange(count) % 10 == 5
    seen, kept = (
        jax.tree.map(lambda x, chosen=chosen: jnp.asarray(np.asarray(x)[..., chosen]), data)
        for chosen in (~aside, aside)
    )
    return seen, kept


def on_device(tree: Any) -> Any:
    """Arrays of a pytree as JAX's own."""
    return jax.tree.map(jnp.asarray, tree)
