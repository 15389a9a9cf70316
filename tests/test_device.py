"""Device: what is asked reaches JAX here and in the workers, and no result depends on it."""

from __future__ import annotations

import os
from dataclasses import replace

import jax
import pytest
import sessions

from cestprep import resources
from cestprep.cli.device import use_device, used_device
from cestprep.cli.parser import make_parser, settings_of
from cestprep.cli.participant import plan_run
from cestprep.engine.plugin import RobustMultiProc
from cestprep.engine.result import ExitCode, RunResult
from cestprep.errors import UsageError
from cestprep.resources import Device, NoDeviceError
from cestprep.workflows.session import init_run_wf

GPU = Device("gpu", "Imaginary 1", "cuda,cpu")


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """The environment and JAX of this process as they were, whatever a test asks for."""
    platforms = jax.config.jax_platforms
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("JAX_PLATFORM_NAME", "")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    yield
    jax.config.update("jax_platforms", platforms)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr("cestprep.resources.find_gpu", lambda: GPU)


def in_worker(expression):
    """Value of an expression in a new worker process."""
    pool = RobustMultiProc({"n_procs": 1}).pool
    try:
        return pool.submit(eval, expression).result(timeout=120)
    finally:
        pool.shutdown()


PLATFORMS = "__import__('os').environ['JAX_PLATFORMS'], __import__('jax').config.jax_platforms"


@pytest.mark.usefixtures("gpu")
def test_workers_are_told_even_if_their_server_is_older():
    assert in_worker("__import__('os').environ.get('JAX_PLATFORMS', '')") == ""
    use_device("cpu")
    assert in_worker(PLATFORMS) == ("cpu", "cpu")
    assert in_worker("__import__('jax').default_backend()") == "cpu"
    use_device("gpu")
    assert in_worker(PLATFORMS) == ("cuda,cpu", "cuda,cpu")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("device", "platforms"), [("auto", "abacus"), ("cpu", "cpu"), ("gpu", "cuda,cpu")]
)
def test_only_an_explicit_device_overrides_the_environment(monkeypatch, device, platforms):
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    use_device(device)
    assert os.environ["JAX_PLATFORMS"] == platforms
    assert ("JAX_PLATFORM_NAME" in os.environ) == (device == "auto")


def test_automatic_choice_is_found_out(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert str(used_device("auto")) == str(used_device("cpu")) == "cpu"
    monkeypatch.setenv("JAX_PLATFORMS", "abacus")
    with pytest.raises(UsageError, match=r"JAX_PLATFORMS=abacus.*abacus.*unset JAX_PLATFORMS"):
        used_device("auto")


@pytest.mark.parametrize(("support", "says"), [(True, "Check the driver"), (False, "jax.cuda12")])
def test_what_is_missing_is_named(monkeypatch, support, says):
    def find_gpu():
        raise NoDeviceError("no such thing")

    monkeypatch.setattr(resources, "find_gpu", find_gpu)
    monkeypatch.setattr(resources, "has_gpu_support", lambda: support)
    with pytest.raises(UsageError, match=says):
        use_device("gpu")
    assert os.environ["JAX_PLATFORMS"] == ""


def test_processes_share_a_gpu_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    use_device("auto")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    use_device("auto")
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_status_names_the_device():
    assert str(GPU) == "gpu (Imaginary 1)"
    status = RunResult([], GPU).as_dict()
    assert status["exit_code"] == ExitCode.OK
    assert status["device"] == {"platform": "gpu", "kind": "Imaginary 1"}


def test_work_directory_does_not_depend_on_the_device(tmp_path):
    bids = sessions.write(tmp_path / "bids", shape=(4, 4, 1))
    arguments = sessions.arguments(bids, tmp_path / "out", tmp_path / "work")
    settings = settings_of(
        make_parser(["psvae", "voxelwise"]).parse_args(arguments), ["psvae", "voxelwise"]
    )
    plans = plan_run(settings).plans

    def hashes(device):
        graph = init_run_wf(plans, replace(settings, device=device), {}, f"--device {device}")
        names = graph.list_node_names()
        return {n: graph.get_node(n).inputs.get_hashval(hash_method="content")[1] for n in names}

    assert len(hashes("auto")) == 8
    assert hashes("auto") == hashes("cpu") == hashes("gpu")


@pytest.mark.gpu
def test_workers_compute_on_the_gpu():
    os.environ["JAX_PLATFORMS"] = "cpu"
    use_device("gpu")
    assert used_device("gpu").platform == "gpu"
    assert in_worker("__import__('jax').default_backend()") == "gpu"
