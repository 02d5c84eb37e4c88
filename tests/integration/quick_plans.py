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

from flexnn_ncnn import children
from flexnn_ncnn.planning.planner import stock_forecast
from flexnn_ncnn.preparing import preparation_worker, trials

__all__ = ["plans_made_here"]


class _Here:
    """Answers as a child process does."""

    def __init__(self, module: str, task: str) -> None:
        assert module == preparation_worker.__name__

    def ask(self, do: str, progress: Callable[[str, int, int], None] | None = None, **request: Any) -> dict[str, Any]:
        assert do == "prepare"
        message = json.loads(json.dumps(request))
        if progress is not None:
            progress("planning", 0, 1)
        return preparation_worker._prepare(message, progress or (lambda *said: None))

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


@contextmanager
def plans_made_here(*, stock_more_bytes: int = 0) -> Iterator[None]:
    """Within the block.

    Args:
        stock_more_bytes: what stock ncnn is taken to hold beyond its forecast, so that small networks run by layers.
    """

    def forecast(*arguments: Any) -> tuple[int, float]:
        peak_bytes, seconds = stock_forecast(*arguments)
        return peak_bytes + stock_more_bytes, seconds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "Worker", _Here)
        patch.setattr(trials, "process_memory", SimpleNamespace(peak_is_exact=lambda: False))
        patch.setattr(trials, "stock_forecast", forecast)
        patch.setattr(preparation_worker, "FIRST_BASE_BYTES", 300_000)
        yield
