"""What loading each resident part of a plan takes at most, as the profile has it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from flexnn_ncnn.planning.choices import Choice
from flexnn_ncnn.records.plan import Step

__all__ = ["with_load_peaks"]


def with_load_peaks(steps: Iterable[Step], chosen: Iterable[Choice | None]) -> tuple[Step, ...]:
    """The steps with `load_peak_bytes` of their resident parts.

    Args:
        steps: of a plan.
        chosen: for each its choice, None where no layer runs.
    """
    return tuple(
        _told(step, choice) if choice is not None and choice.resident else step
        for step, choice in zip(steps, chosen, strict=True)
    )


def _told(step: Step, choice: Choice) -> Step:
    """Of a chain, whose layers were measured together, what all of them keep counts for each."""
    slices = 1 if step.stages else len(step.parts)
    most_bytes = choice.load_bytes + -(-choice.kept_bytes // max(1, slices))
    parts = tuple(replace(part, load_peak_bytes=most_bytes) if part.pieces else part for part in step.parts)
    return replace(step, parts=parts)
