"""What the installed ncnn can do, found out once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import ncnn

from flexnn_ncnn.records.capabilities import Capabilities
from flexnn_ncnn.runtime.cpu import cpu_count
from flexnn_ncnn.runtime.memory.process_memory import peak_is_exact
from flexnn_ncnn.runtime.native.proof import is_proven

__all__ = ["capabilities", "ncnn_folder", "patch_names"]


@cache
def capabilities() -> Capabilities:
    """What the ncnn in use can do; takes microseconds, and a second once on each machine.

    What adds to the bindings is looked for there. What changes only how ncnn works inside cannot be seen from outside
    without running it: the builds that have it name it in `ncnn.patches`, a list of words with commas between.
    """
    named = frozenset(patch_names())
    releases_gil = "release-gil" in named
    unlocks_calls = not releases_gil and is_proven()
    return Capabilities(
        # what threads that load hold beside their loads is known by trial only
        cpus_beside=cpu_count() if (releases_gil or unlocks_calls) and peak_is_exact() else 0,
        unlocks_calls=unlocks_calls,
        releases_gil=releases_gil,
        loads_zero_copy=hasattr(ncnn, "DataReaderFromBuffer"),
        has_weight_allocator=hasattr(ncnn.Option, "weight_allocator"),
        saves_transformed_weights=hasattr(ncnn.Option, "transformed_weights"),
        tiles_im2col="tile-im2col" in named,
        feeds_borrowed_mats="borrowed-mats" in named,
    )


def patch_names() -> tuple[str, ...]:
    """The patches that the ncnn in use says it was built with."""
    return tuple(name for name in str(getattr(ncnn, "patches", "")).split(",") if name)


def ncnn_folder() -> Path:
    """Where the ncnn in use lies."""
    return Path(str(ncnn.__file__)).resolve().parent
