"""The option ``--device`` of all programs that compute."""

from __future__ import annotations

import argparse
import os

from cestprep import resources
from cestprep.errors import Fault, UsageError
from cestprep.settings import DEVICES, Settings


def add_device_option(parser: argparse._ActionsContainer, default: str = Settings.device) -> None:
    """Add ``--device`` to a parser or a group of options; `use_device` takes its value."""
    parser.add_argument(
        "--device",
        default=default,
        choices=DEVICES,
        help="where to compute; auto: what JAX chooses, a GPU if it sees one; gpu: an error if it "
        f"sees none; cpu and gpu override the environment variable {resources.PLATFORMS}, auto "
        f"honours it (default: {Settings.device})",
    )


def use_device(name: str) -> None:
    """Make JAX use a device, in this process and in the workers it will start.

    To be called before JAX computes anything.

    Parameters
    ----------
    name : str
        One of `cestprep.settings.DEVICES`.

    Raises
    ------
    UsageError
        For "gpu" if JAX sees none.
    """
    if name == "cpu":
        resources.set_platforms(resources.CPU.platforms)
        return
    resources.share_gpu()
    if name == "gpu":
        resources.set_platforms(_gpu().platforms)


def used_device(name: str) -> resources.Device:
    """What is computed on after `use_device` of the same name.

    Raises
    ------
    UsageError
        If JAX cannot start what is asked, here or by the environment.
    """
    if name == "cpu":
        return resources.CPU
    if name == "gpu":
        return _gpu()
    try:
        return resources.chosen_device()
    except resources.NoDeviceError as exc:
        asked = os.environ.get(resources.PLATFORMS, "")
        raise UsageError(
            Fault(
                f"{resources.PLATFORMS}={asked}",
                f"JAX starts no device ({exc})",
                f"Correct or unset {resources.PLATFORMS}, or use --device cpu",
            )
        ) from None


def _gpu() -> resources.Device:
    try:
        return resources.find_gpu()
    except resources.NoDeviceError as exc:
        if resources.has_gpu_support():
            what = f"JAX sees no GPU ({exc})"
            mend = "Check the driver and CUDA_VISIBLE_DEVICES"
        else:
            what = "JAX is installed without support for GPUs"
            mend = "Install it for yours, such as pip install 'jax[cuda12]'"
        raise UsageError(
            Fault("--device gpu", what, f"{mend}, or use --device cpu or auto")
        ) from None
