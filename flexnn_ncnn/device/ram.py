"""Memory of the machine (Linux)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_sizes", "ram_bytes"]


def memory_sizes(root: Path = Path("/")) -> dict[str, int]:
    """What /proc/meminfo says, in bytes by name; nothing where nobody tells.

    Args:
        root: where /proc is.
    """
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    sizes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        sizes[name] = int(number[0]) * 1024 if number and number[0].isdecimal() else 0
    return sizes


def ram_bytes(root: Path = Path("/")) -> int:
    """All memory, 0 where nobody tells."""
    return memory_sizes(root).get("MemTotal", 0)
