"""Plans made in this process and not tried: for tests that want plans, but not of how they are made or kept.

A plan of a child process that is tried costs one to three seconds of a processor, this one a tenth of it. What is
profiled and run is real; what the process itself holds, which trials find out, is taken to be little.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from flexnn_ncnn import children, preparation_worker, trials

__all__ = ["plans_made_here"]


class _Here:
    """Answers as a child process does."""

    def __init__(self, module: str, task: str) -> None:
        assert module == preparation_worker.__name__

    def ask(self, do: str, progress: Callable[[str, int, int], None] | None = None, **request: Any) -> dict[str, Any]:
        assert do == "prepare"
        message = json.loads(json.dumps(request))
        return preparation_worker._prepare(message, progress or (lambda *said: None))

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


@contextmanager
def plans_made_here() -> Iterator[None]:
    """Within the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "Worker", _Here)
        patch.setattr(trials, "process_memory", SimpleNamespace(peak_is_exact=lambda: False))
        patch.setattr(preparation_worker, "FIRST_BASE_BYTES", 300_000)
        yield
