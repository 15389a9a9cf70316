from __future__ import annotations

from pathlib import Path

import jax
import pytest

from cestprep.resources import share_gpu

share_gpu()  # with the programs that tests start
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture
def x64():
    """Run a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real scans beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data (real scans, not part of the repository)")
    return SHARED


#: Files that take minutes begin first, so that no core waits for the last of them.
LONGEST = ("test_dictionary", "test_mice", "test_run", "test_grid", "test_third_stage",
           "test_phantoms", "test_networks", "test_solvers", "test_voxelwise")  # fmt: skip


def pytest_collection_modifyitems(items):
    def place(item):
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=place)  # stable: files stay together


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not gpu_seen():
        pytest.skip("needs a GPU")


def gpu_seen() -> bool:
    try:
        return bool(jax.devices("gpu"))
    except RuntimeError:
        return False
