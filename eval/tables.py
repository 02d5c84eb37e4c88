"""Measured cells as rows of Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eval.peers.setups import PEERS

__all__ = [
    "BUSY",
    "CONTEST_HEAD",
    "LIMIT_HEAD",
    "PHASE_HEAD",
    "STEP_HEAD",
    "contest_rows",
    "escaped",
    "limit_rows",
    "megabytes",
    "peer_titles",
    "phase_rows",
    "step_rows",
    "table",
]

Line = Mapping[str, Any]

BUSY = "(busy)"
CONTEST_HEAD = (
    "contestant",
    "budget, MB",
    "RSS growth, MB",
    "with page cache, MB",
    "load, ms",
    "cold, ms",
    "warm, ms",
    "of stock fp32",
    "read cold, MB",
    "read warm, MB",
    "difference",
)
LIMIT_HEAD = ("contestant", "survives, MB", "killed or too slow, MB", "then, ms", "then read, MB")
STEP_HEAD = ("step", "seconds", "CPU-seconds", "read from storage, MB", "files left, MB", "joules")
PHASE_HEAD = (
    "budget, MB",
    "inferences",
    "ms",
    "peak, MB",
    "resident, MB",
    "streamed, MB",
    "stopped, ms",
    "delayed, ms",
    "planned, ms",
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; text in cells is not read as anything else."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def escaped(text: str) -> str:
    """Text from files, such as names, which Markdown is not to read as anything else."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def megabytes(count_bytes: int | None) -> str:
    """Bytes as megabytes; "" for what is not known."""
    return "" if count_bytes is None else f"{count_bytes / 1e6:.4g}"


def contest_rows(line: Line) -> Iterator[tuple[str, ...]]:
    """A row for each contestant of a cell, or what kept it from being measured."""
    cell = line["cell"]
    budget = megabytes(cell["budget_bytes"])
    blank = ("",) * (len(CONTEST_HEAD) - 3)
    if line["status"] != "measured":
        yield ("+".join(cell["configs"]), budget, f"{line['status']}: {line['message']}", *blank)
        return
    found = line["found"]
    rows = {one["config"]: one for one in found["measured"]}
    stock = rows["stock"]["latency_ms_median"] if "stock" in rows else None
    busy = f" {BUSY}" if found["machine"]["busy"] else ""
    for config in cell["configs"]:
        own_budget = budget if config.startswith("flexnn") else ""
        if config not in rows:
            why = found["failed"].get(config) or found["missing"].get(config, "")
            yield (config, own_budget, why, *blank)
            continue
        one = rows[config]
        yield (
            config + (f" ({one['note']})" if one["note"] else ""),
            own_budget,
            megabytes(one["peak_bytes"]),
            megabytes(one["group_peak_bytes"]),
            f"{one['load_ms']:.4g}",
            f"{one['cold_ms']:.4g}",
            f"{one['latency_ms_median']:.4g} [{one['latency_ms_min']:.4g}, {one['latency_ms_max']:.4g}]{busy}",
            f"{one['latency_ms_median'] / stock:.2f}" if stock else "",
            megabytes(one["cold_read_bytes"]),
            megabytes(one["warm_read_bytes"]),
            f"{one['difference']:.1e}" if one.get("difference") is not None else "",
        )


def limit_rows(line: Line) -> Iterator[tuple[str, ...]]:
    """A row for each contestant that a smallest memory limit was looked for."""
    for one in line["found"]["measured"]:
        limit = one.get("limit")
        if limit is None:
            yield (one["config"], "not found", "", "", "")
            continue
        yield (
            one["config"],
            megabytes(limit["survived_bytes"]),
            megabytes(limit["failed_bytes"]),
            f"{limit['latency_ms']:.4g}",
            megabytes(limit["read_bytes"]),
        )


def step_rows(line: Line) -> Iterator[tuple[str, ...]]:
    """A row for each step of the overhead."""
    for step in line["found"]["steps"]:
        yield (
            step["step"],
            f"{step['wall_seconds']:.2f}",
            f"{step['cpu_seconds']:.2f}",
            megabytes(step["read_bytes"]),
            megabytes(step["left_bytes"]),
            "" if step["joules"] is None else f"{step['joules']:.1f}",
        )


def phase_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each budget of the adaptive demo."""
    for phase in found["phases"]:
        switch = phase["switch"]
        yield (
            megabytes(phase["budget_bytes"]),
            str(phase["inferences"]),
            f"{phase['latency_ms_median']:.4g}",
            megabytes(phase["peak_bytes"]) + (" (exceeded)" if _exceeds(found, phase) else ""),
            megabytes(phase["weights_resident_bytes"]),
            megabytes(phase["weights_streamed_bytes"]),
            f"{switch['stopped_ms']:.3g}" if switch else "",
            f"{switch['longest_delay_ms']:.3g}" if switch else "",
            f"{switch['planning_ms']:.4g}" if switch else "",
        )


def peer_titles(configs: Iterable[str]) -> list[str]:
    """What contestants that are not ncnn are."""
    return [f"`{config}`: {PEERS[config].title}" for config in configs if config in PEERS]


def _exceeds(found: Mapping[str, Any], phase: Mapping[str, Any]) -> bool:
    return bool(found["peak_exact"]) and phase["peak_bytes"] > phase["budget_bytes"]
