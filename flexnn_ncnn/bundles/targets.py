"""What a bundle is made for: this machine, a kind of device, or the very machine behind a fingerprint file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flexnn_ncnn.errors import DeviceMemoryError, UsageError
from flexnn_ncnn.records.formats import read_device
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.units import format_bytes

__all__ = ["DEVICES", "Target", "check_target", "find_target", "notes"]

_GIB = 1024**3
# of a device's memory, what the system and other programs leave
_USABLE = 0.75


@dataclass(frozen=True, slots=True)
class Target:
    """What a bundle is made for.

    Attributes:
        summary: in words.
        fingerprint: of the machine, "" where it is a kind of device or nothing is known.
        ram_bytes: memory of the device, or the sizes it is sold with, ascending; none where unknown.
        cpus: how many it has, 0 where unknown.
        has_threads: whether ncnn computes on several threads there.
        read_bytes_per_second: what a usual storage reads there, 0 where unknown.
    """

    summary: str
    fingerprint: str = ""
    ram_bytes: tuple[int, ...] = ()
    cpus: int = 0
    has_threads: bool = True
    read_bytes_per_second: int = 0


DEVICES = {
    "pi4": Target(
        "Raspberry Pi 4 (aarch64, 4 x Cortex-A72, 4 KiB pages)",
        ram_bytes=(1 * _GIB, 2 * _GIB, 4 * _GIB, 8 * _GIB),
        cpus=4,
        read_bytes_per_second=40_000_000,  # its card slot ends at 50 MB/s
    ),
    "pi5": Target(
        "Raspberry Pi 5 (aarch64, 4 x Cortex-A76, 16 KiB pages)",
        ram_bytes=(1 * _GIB, 2 * _GIB, 4 * _GIB, 8 * _GIB, 16 * _GIB),
        cpus=4,
        read_bytes_per_second=80_000_000,  # its card slot ends at 104 MB/s
    ),
    "android": Target("an Android phone (aarch64)", has_threads=False),
}
"""Kinds of devices by name."""


def find_target(text: str, here: Machine, measured_on: Machine | None = None) -> Target:
    """What `text` means.

    Args:
        text: a key of `DEVICES`, the path of a file that `flexnn fingerprint` wrote, or "" for the machine that the
            model was measured on.
        here: this machine.
        measured_on: the machine of the profile to plan with, None for this one.

    Raises:
        UsageError: it is none of these.
        InputError, FormatVersionError: the file holds no fingerprint.
    """
    if not text:
        machine = measured_on or here
        return Target(machine.summary, fingerprint=machine.fingerprint, cpus=machine.cpus)
    if text in DEVICES:
        return replace(DEVICES[text], fingerprint=measured_on.fingerprint if measured_on else "")
    if not Path(text).suffix:
        raise UsageError(f"{text!r} is no device", hint=f"give {', '.join(DEVICES)}, or a file of 'flexnn fingerprint'")
    device = read_device(text)
    there = device.machine
    return Target(
        there.summary,
        fingerprint=there.fingerprint,
        ram_bytes=(device.ram_bytes,) if device.ram_bytes else (),
        cpus=there.cpus,
        has_threads=device.has_threads,
    )


def check_target(target: Target, budget_bytes: int, threads: int) -> None:
    """Refuse what the device cannot do.

    Raises:
        DeviceMemoryError: none of these devices has so much memory.
        UsageError: it has not so many CPUs.
    """
    if target.ram_bytes and budget_bytes > target.ram_bytes[-1]:
        raise DeviceMemoryError(
            f"a budget of {format_bytes(budget_bytes)} cannot work on {target.summary}: "
            f"it has {_ram(target.ram_bytes[-1])} of memory{' at most' if len(target.ram_bytes) > 1 else ''}",
            hint=f"give {format_bytes(int(target.ram_bytes[-1] * _USABLE))} or less",
        )
    if target.cpus and threads > target.cpus:
        raise UsageError(
            f"{threads} threads are more than the {target.cpus} CPUs of {target.summary}",
            hint=f"give --threads {target.cpus} or less",
        )


def notes(target: Target, budget_bytes: int, threads: int, streamed_bytes: int) -> Iterator[str]:
    """What should be known before the bundle is brought there, a sentence each.

    Args:
        target: what it is made for.
        budget_bytes: what an inference may hold.
        threads: what it computes on.
        streamed_bytes: weights that the plan reads in each inference.
    """
    enough = [ram for ram in target.ram_bytes if budget_bytes <= ram * _USABLE]
    if target.ram_bytes and not enough:
        yield f"the budget is nearly all of its {_ram(target.ram_bytes[-1])} of memory"
    elif target.ram_bytes and enough[0] > target.ram_bytes[0]:
        yield f"the budget wants one with {_ram(enough[0])} of memory or more"
    if threads > 1 and not target.has_threads:
        yield "ncnn computes on one thread there, unless it runs in a Linux beside Android's own"
    if streamed_bytes and target.read_bytes_per_second:
        seconds = streamed_bytes / target.read_bytes_per_second
        yield (
            f"each inference reads some {format_bytes(streamed_bytes)} of weights again: {seconds:.2g} s from a card "
            f"of {format_bytes(target.read_bytes_per_second)}/s, much less where free memory keeps the model"
        )


def _ram(size_bytes: int) -> str:
    """Memory as devices are sold, such as "8 GiB"."""
    return f"{size_bytes / _GIB:.3g} GiB"
