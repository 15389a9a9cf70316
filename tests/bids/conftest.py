"""A small session that tests may break."""

from __future__ import annotations

import pytest
import sessions


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return sessions.write(tmp_path_factory.mktemp("pristine") / "bids", shape=(4, 4, 1))


@pytest.fixture
def dataset(pristine, tmp_path):
    return sessions.copy(pristine, tmp_path / "bids")
