"""How busy the machine was, where that matters, as a line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from flexnn_ncnn.measuring.machine_load import MachineLoad

__all__ = ["write_machine_load"]


def write_machine_load(found: MachineLoad, stream: TextIO) -> None:
    """Writes a line on a machine that was busy with other things; nothing on one that was not."""
    if not found.busy:
        return
    cpus = f"{found.cpus} CPU{'s' if found.cpus > 1 else ''}"
    if found.others_running is not None:
        why = f"{found.others_running:.1f} threads of others ran on its {cpus}"
    else:
        why = f"its load was {found.load_average or 0:.1f} on {cpus}"
    stream.write(f"machine  BUSY: {why}; times are too long, and say little\n")
