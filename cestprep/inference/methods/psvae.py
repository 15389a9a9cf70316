"""Physics-structured variational autoencoder: a network's Gaussian posterior, decoded by physics.

Source: arXiv 2602.03317.  Here the evidence bound has each voxel's own noise level, errors of known
parameters enter the likelihood, parameters are unconstrained, and the network starts from the
posterior of simulated voxels.
"""

from __future__ import annotations

from cestprep.inference.fitting import estimate, learn

__all__ = ["INTERVAL", "TITLE", "estimate", "learn"]

TITLE = "physics-structured variational autoencoder, refined on each voxel's data"
INTERVAL = "central interval of a Gaussian in unconstrained (logit) space"
