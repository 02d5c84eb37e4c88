"""What several tests of the real package share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import tiny_models
from tests.integration.quick_plans import plans_made_here


@pytest.fixture(scope="session")
def planned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with 9 MB of weights, model.param, and a cache beside it: making plans is what these tests wait for."""
    made = tmp_path_factory.mktemp("planned")
    tiny_models.fully_connected(made)
    return made


@pytest.fixture
def quick_cache(planned_folder: Path) -> Iterator[Path]:
    """A cache of its plans that are made in this process, as long as a test runs."""
    with plans_made_here():
        yield planned_folder / "quick"
