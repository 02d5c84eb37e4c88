"""FlexNN's published points: `published.json`, which says where they are from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["PublishedModel", "budgets_bytes", "published_model", "source_and_note"]

_PATH = Path(__file__).with_name("published.json")
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """One model of the paper.

    Attributes:
        title: as the paper writes it.
        differs: what keeps its numbers from being compared with ours, or "".
        devices: device -> contestant -> (megabytes, milliseconds) each.
    """

    title: str
    differs: str
    devices: Mapping[str, Mapping[str, list[tuple[float, float]]]]


def published_model(model: str) -> PublishedModel | None:
    """The paper's counterpart of a zoo model; None where there is none."""
    for one in _read()["models"].values():
        if model in one["zoo"]:
            return PublishedModel(one["title"], one["differs"], one["devices"])
    return None


def budgets_bytes(model: str) -> tuple[int, ...]:
    """The budgets FlexNN was published with; none for a model that it was not."""
    found = [one["budgets_mb"] for one in _read()["models"].values() if model in one["zoo"]]
    return tuple(mb * _MB for mb in found[0]) if found else ()


def source_and_note() -> tuple[str, str]:
    """Where the points are from, and what is to be known about them."""
    return _read()["source"], _read()["note"]


@cache
def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_PATH.read_text(encoding="utf-8"))
    return found
