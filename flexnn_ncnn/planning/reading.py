"""How long an inference takes whose weights are read beside all else, into memory of a fixed size."""

from __future__ import annotations

from collections.abc import Sequence

from flexnn_ncnn.planning.simulate import Turn

__all__ = ["seconds_beside_reading"]

_INFERENCES = 3


def seconds_beside_reading(
    turns: Sequence[Turn], ahead: Sequence[int], sizes: Sequence[int], memory_bytes: int, bytes_per_second: float
) -> float:
    """One inference in a row of many; with endless storage that of `simulate.inference_seconds`.

    Weights are read one load after the other, each as soon as there is room for it: what was read to memory before it
    is not needed any more when its layer is made, or, where kernels read it in place, when that was computed.

    Args:
        turns: in order.
        ahead: per load, from `simulate.distances`; empty for loads and computing one after the other.
        sizes: bytes that each load reads.
        memory_bytes: what they are read to.
        bytes_per_second: of the storage.
    """
    room = _reads_back(sizes, memory_bytes)
    done: list[float] = []  # when the memory of each load is free
    released: list[float] = []
    read = loaded = computed = begin = 0.0
    for _ in range(_INFERENCES):
        begin = computed
        for turn in turns:
            if turn.load is None:
                computed += turn.seconds
                continue
            count, number = len(done), len(done) % len(sizes)
            read = max(read, _at(done, count - room[number])) + sizes[number] / bytes_per_second
            if ahead:
                loaded = max(loaded, _at(released, count - ahead[number]), read) + turn.load.seconds
                computed = max(computed, loaded) + turn.seconds_beside_load
            else:
                loaded = max(computed, read) + turn.load.seconds
                computed = loaded + turn.seconds
            done.append(computed if turn.load.stands else loaded)
            released.append(computed)
    return computed - begin


def _reads_back(sizes: Sequence[int], memory_bytes: int) -> list[int]:
    """Per load how many loads back the one lies whose memory it needs: 1 is the one before."""
    found = []
    for number in range(len(sizes)):
        total = distance = 0
        while distance < len(sizes) and total + sizes[number - distance] <= memory_bytes:
            total += sizes[number - distance]
            distance += 1
        found.append(max(1, distance))
    return found


def _at(times: Sequence[float], index: int) -> float:
    return times[index] if index >= 0 else 0.0
