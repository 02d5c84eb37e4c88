"""Run NCNN models under a byte budget on the stock ncnn wheel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexnn_ncnn.session import Session, open_session

__all__ = ["Session", "open_session"]


def __getattr__(name: str) -> Any:
    """`open_session` and `Session`, imported when they are asked for: ncnn takes a while to load."""
    if name in __all__:
        from flexnn_ncnn import session

        return getattr(session, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
