"""What a bundle is made for: this machine, a kind of device, or the very machine behind a fingerprint file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.formats import read_machine
from flexnn_ncnn.machine import Machine

__all__ = ["DEVICES", "Target", "find_target"]

DEVICES = {
    "pi4": "Raspberry Pi 4 (aarch64, 4 x Cortex-A72, 4 KiB pages)",
    "pi5": "Raspberry Pi 5 (aarch64, 4 x Cortex-A76, 16 KiB pages)",
    "android": "an Android phone (aarch64)",
}
"""Kinds of devices: name -> what it is."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a bundle is made for.

    Attributes:
        summary: in words.
        is_here: whether a plan of this machine can be used there as it is.
    """

    summary: str
    is_here: bool


def find_target(text: str, here: Machine) -> Target:
    """What `text` means.

    Args:
        text: a key of `DEVICES`, the path of a file that `flexnn fingerprint` wrote, or "" for this machine.
        here: this machine.

    Raises:
        UsageError: it is none of these.
        InputError, FormatVersionError: the file holds no fingerprint.
    """
    if not text:
        return Target(here.summary, True)
    if text in DEVICES:
        return Target(DEVICES[text], False)
    if not Path(text).suffix:
        raise UsageError(f"{text!r} is no device", hint=f"give {', '.join(DEVICES)}, or a file of 'flexnn fingerprint'")
    there = read_machine(text)
    return Target(there.summary, there.fingerprint == here.fingerprint)
