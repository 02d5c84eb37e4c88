"""How many examples hypothesis tries: as many as a test says, and ten times that with `--hypothesis-profile=slow`."""

from __future__ import annotations

from hypothesis import settings

__all__ = ["examples"]

_USUAL = 100  # hypothesis' own


def examples(count: int) -> int:
    """`count`, or more where a profile of more examples than usual is in force."""
    return max(1, count * settings().max_examples // _USUAL)
