"""Machines and devices as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from flexnn_ncnn.device.cpus import CpuGroup
from flexnn_ncnn.device.doctor import DeviceReport, Memory, NcnnFacts
from flexnn_ncnn.device.storage import StorageSpeed
from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.reporters.escape import printable
from flexnn_ncnn.units import format_bytes

__all__ = ["write_device", "write_machine"]

_WIDTH = 13
_FEATURES_WIDTH = 100


def write_machine(machine: Machine, stream: TextIO) -> None:
    """Writes the fingerprint and the facts behind it."""
    _write(
        stream,
        ("fingerprint", machine.fingerprint),
        ("system", f"{machine.system}, {machine.architecture}"),
        ("cpus", f"{machine.cpus} x {' and '.join(machine.cores) or 'unknown cores'}"),
        ("L2 cache", _binary(machine.l2_bytes) or "unknown"),
        ("page", _binary(machine.page_bytes)),
        ("ncnn", machine.ncnn_version),
        ("features", _shortened(" ".join(machine.features)) or "unknown"),
    )


def write_device(report: DeviceReport, stream: TextIO) -> None:
    """Writes one screen: what the device is, and what works on it."""
    if report.board:
        _write(stream, ("board", report.board))
    emulated = ", emulated" if report.is_emulated else ""
    _write(stream, ("system", f"{report.system}{emulated}; {report.python}"), *_cpus(report))
    _write(
        stream,
        ("memory", _memory(report.memory)),
        ("page", _binary(report.page_bytes)),
        ("storage", f"{_storage(report.storage)}: {report.cache_folder}"),
        ("ncnn", _ncnn(report.ncnn)),
        ("fingerprint", report.fingerprint or "unknown without ncnn"),
    )
    stream.write("\n")
    width = max(len(part.name) for part in report.parts)
    for part in report.parts:
        advice = f"; {part.install}" if part.install and not part.works else ""
        line = f"{'yes' if part.works else 'no':<4} {part.name:<{width}}  {part.detail}{advice}"
        stream.write(f"{printable(line)}\n")


def _cpus(report: DeviceReport) -> Iterator[tuple[str, str]]:
    total = sum(len(group.cpus) for group in report.cpus)
    sizes = ["big", *["middle"] * (len(report.cpus) - 2), "little"] if len(report.cpus) > 1 else [""]
    for i, (size, group) in enumerate(zip(sizes, report.cpus, strict=False)):
        usable = f"; {report.usable_cpus} of {total} usable" if i == 0 and report.usable_cpus != total else ""
        yield ("cpus" if i == 0 else ""), f"{_group(group, size)}{usable}"


def _group(group: CpuGroup, size: str) -> str:
    words = [f"{len(group.cpus)}", size, "x", group.core or "unknown core"]
    speed = f", up to {group.most_hertz / 1e9:.1f} GHz" if group.most_hertz else ""
    cache = f", L2 {_binary(group.l2_bytes)}" if group.l2_bytes else ""
    return " ".join(filter(None, words)) + speed + cache


def _memory(memory: Memory) -> str:
    if not memory.ram_bytes:
        return "unknown"
    swap = f", {format_bytes(memory.swap_bytes)} swap" if memory.swap_bytes else ""
    limit = "" if memory.limited_by in ("", "MemAvailable") else f" (limited by {memory.limited_by})"
    pressure = f", pressure {memory.pressure_percent:.0f} %" if memory.pressure_percent >= 1 else ""
    return f"{format_bytes(memory.ram_bytes)}{swap}; {format_bytes(memory.available_bytes)} available{limit}{pressure}"


def _storage(speed: StorageSpeed | None) -> str:
    if speed is None:
        return "cannot be written to"
    cached = "" if speed.from_storage else " from memory"
    read, write = (f"{format_bytes(int(one))}/s" for one in (speed.read_bytes_per_second, speed.write_bytes_per_second))
    return f"reads {read}{cached}, writes {write}"


def _ncnn(ncnn: NcnnFacts) -> str:
    if ncnn.problem:
        return "cannot be imported"
    fp16 = ", fp16 arithmetic" if ncnn.has_fp16_arithmetic else ""
    return f"{ncnn.version}, blobs packed by {ncnn.lanes}{fp16}"


def _write(stream: TextIO, *rows: tuple[str, str]) -> None:
    for label, text in rows:
        stream.write(f"{label:<{_WIDTH}}{printable(text)}\n")


def _binary(count_bytes: int) -> str:
    """Powers of two as what they are: "16 KiB"; "" for 0."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if count_bytes and count_bytes % factor == 0:
            return f"{count_bytes // factor} {unit}"
    return f"{count_bytes} B" if count_bytes else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _FEATURES_WIDTH else f"{text[: text.rindex(' ', 0, _FEATURES_WIDTH)]} ..."
