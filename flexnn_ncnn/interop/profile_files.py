"""FlexNN's profiles: .memprof, every allocation and free of an inference, and .timeprof, the times of its layers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.interop.lines import INTEGER, NUMBER, matches, prefixed, write_lines
from flexnn_ncnn.interop.records import (
    KINDS,
    OVERREAD_BYTES,
    FlexnnProfile,
    LayerTime,
    MemoryObject,
    check_limits,
)

__all__ = ["read_flexnn_profile", "write_flexnn_profile"]

_MEMORY_HEADER = "layer_index,memory_type,event_type,ptr,size,time"
_TIME_HEADER = "layer_index,loading_begin,loading_end,loading_duration,computing_begin,computing_end,computing_duration"
_FIRST_ADDRESS = 1 << 32
_EVENT = re.compile(rf"{INTEGER},([012]),([01]),(0x[0-9a-fA-F]{{1,16}}|\(nil\)),{INTEGER},{NUMBER}", re.ASCII)
_TIMES = re.compile(",".join([INTEGER, *[NUMBER] * 6]), re.ASCII)


def write_flexnn_profile(profile: FlexnnProfile, prefix: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write PREFIX.memprof and PREFIX.timeprof; returns their paths.

    Raises:
        ProfileError: it has more than FlexNN's planner can count.
    """
    check_limits(profile.objects, len(profile.times), ProfileError)
    memory, times = prefixed(prefix, "memprof"), prefixed(prefix, "timeprof")
    write_lines(memory, (_MEMORY_HEADER, *_events(profile.objects, len(profile.times))))
    write_lines(times, (_TIME_HEADER, *_time_rows(profile.times)))
    return memory, times


def read_flexnn_profile(prefix: str | os.PathLike[str]) -> FlexnnProfile:
    """Read PREFIX.memprof and PREFIX.timeprof.

    Like FlexNN's reader, this one passes over a free of what was never allocated.

    Raises:
        ProfileError: either is missing or damaged, or something is never freed.
    """
    times = tuple(_read_times(prefixed(prefix, "timeprof")))
    path = prefixed(prefix, "memprof")
    live: dict[str, int] = {}
    objects: list[MemoryObject] = []
    for where, found in matches(path, _EVENT, ProfileError, header=_MEMORY_HEADER):
        layer, kind, is_malloc, pointer, size, _ = found.groups()
        if int(layer) >= len(times):
            raise ProfileError(f"{where}: layer {layer} of {len(times)}")
        if is_malloc == "1":
            if pointer in live:
                raise ProfileError(f"{where}: {pointer} is allocated twice")
            live[pointer] = len(objects)
            objects.append(MemoryObject(KINDS[int(kind)], int(layer), -1, int(size)))
        elif pointer in live:
            number = live.pop(pointer)
            if int(layer) < objects[number].begin:
                raise ProfileError(f"{where}: freed in layer {layer}, before it is allocated")
            objects[number] = replace(objects[number], end=int(layer) + 1)
    if live:
        raise ProfileError(f"{path}: {len(live)} allocations are never freed", hint="profile with FlexNN again")
    check_limits(objects, len(times), ProfileError)
    return FlexnnProfile(tuple(objects), times)


def _events(objects: Sequence[MemoryObject], layers: int) -> Iterator[str]:
    """Allocations and frees in the order a run makes them, at addresses that are used once."""
    starting: dict[int, list[int]] = {}
    ending: dict[int, list[int]] = {}
    for number, one in enumerate(objects):
        starting.setdefault(one.begin, []).append(number)
        ending.setdefault(one.end - 1, []).append(number)
    clock = 0
    for layer in range(layers):
        for is_malloc, numbers in ((1, starting.get(layer, [])), (0, ending.get(layer, []))):
            for number in numbers:
                one, address = objects[number], _FIRST_ADDRESS + number * OVERREAD_BYTES
                size = one.size_bytes if is_malloc else 0
                yield f"{layer},{KINDS.index(one.kind)},{is_malloc},{address:#x},{size},{clock:.6f}"
                clock += 1


def _time_rows(times: Sequence[LayerTime]) -> Iterator[str]:
    clock = 0.0
    for layer, time in enumerate(times):
        load, compute = time.load_seconds * 1e3, time.compute_seconds * 1e3
        columns = (clock, clock + load, load, clock + load, clock + load + compute, compute)
        yield ",".join([str(layer), *(f"{value:.6f}" for value in columns)])
        clock += load + compute


def _read_times(path: Path) -> Iterator[LayerTime]:
    for layer, (where, found) in enumerate(matches(path, _TIMES, ProfileError, header=_TIME_HEADER)):
        if int(found[1]) != layer:
            raise ProfileError(f"{where}: layer {found[1]} where {layer} is due")
        load, compute = float(found[4]), float(found[7])
        if load < 0 or compute < 0:
            raise ProfileError(f"{where}: a duration is negative")
        yield LayerTime(load / 1e3, compute / 1e3)
