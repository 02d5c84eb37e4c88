"""What several tests of the real package share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import tiny_models


@pytest.fixture(scope="session")
def planned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with 9 MB of weights, model.param, and a cache beside it: making plans is what these tests wait for."""
    made = tmp_path_factory.mktemp("planned")
    tiny_models.fully_connected(made)
    return made
