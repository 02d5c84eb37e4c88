"""Run NCNN models under a byte budget on the stock ncnn wheel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexnn_ncnn.net import Extractor, Net
    from flexnn_ncnn.sessions.session import Session, open_session

__all__ = ["Extractor", "Net", "Session", "open_session"]

_HOMES = {
    "Extractor": "net.extractor",
    "Net": "net.net",
    "Session": "sessions.session",
    "open_session": "sessions.session",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: ncnn takes a while to load."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
