"""`report.md`: all that was measured as tables, with the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.figures import Point, draw_ablation, draw_end_to_end
from eval.published import published_model, source_and_note
from eval.results import Results
from param_tools.model_io import atomic_write

__all__ = ["points_of", "write_report"]

Line = Mapping[str, Any]
_BUSY = "(busy)"


def write_report(results: Results, folder: Path) -> Path:
    """Writes report.md and the figures it shows; returns its path.

    Args:
        results: what was measured.
        folder: where the report and its figures go.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    parts = [
        "# FlexNN's evaluation, repeated",
        _machine(results.machine),
        *_end_to_end(results.latest("end-to-end"), folder),
        *_ablation(results.latest("ablation"), folder),
        *_overhead(results.latest("overhead")),
    ]
    path = folder / "report.md"
    with atomic_write(path, "w") as file:
        file.write("\n\n".join(parts) + "\n")
    return path


def points_of(lines: Iterable[Line]) -> list[Point]:
    """What the contestants of measured cells took."""
    return [
        Point(
            one["config"],
            line["cell"]["budget_bytes"] if one["config"].startswith("flexnn") else None,
            one["peak_bytes"],
            one["latency_ms_median"],
            one["latency_ms_min"],
            one["latency_ms_max"],
            line["found"]["machine"]["busy"],
        )
        for line in lines
        if line["status"] == "measured"
        for one in line["found"]["measured"]
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    cores = ", ".join(machine["cores"]) or machine["architecture"]
    return (
        f"Measured on {machine['cpus']} CPUs ({_cell(cores)}, {machine['architecture']}, {machine['system']}) with "
        f"ncnn {machine['ncnn_version']}; fingerprint `{machine['fingerprint']}`. Latencies are medians, with the "
        f"fastest and slowest inference in brackets; {_BUSY} marks those taken while other programs took so much of "
        "the machine that times say little. Memory is what the resident set grew by at most, loading included, page "
        "cache not."
    )


def _end_to_end(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        source, note = source_and_note()
        yield f"## End to end\n\nPublished points: {source}. {note}"
    for model, group in _groups(lines, lambda cell: cell["model"]):
        yield f"### {_cell(model)}"
        points = points_of(group)
        if points:
            path = folder / f"end-to-end-{_file_name(model)}.png"
            draw_end_to_end(model, points, path)
            yield f"![Latency over memory of {_cell(model)}]({path.name})"
        published = published_model(model)
        if published and published.differs:
            yield f"Published and measured models differ: {published.differs}."
        yield _table(
            ("contestant", "budget, MB", "memory, MB", "latency, ms", "of stock fp32 beside it", "streamed, MB"),
            (row for line in group for row in _bench_rows(line)),
        )


def _ablation(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        yield "## Ablation"
    for (model, budget_bytes), group in _groups(lines, lambda cell: (cell["model"], cell["budget_bytes"])):
        title = f"{Path(model).stem} within {_mb(budget_bytes)} MB"
        yield f"### {_cell(title)}"
        points = points_of(group[-1:])
        if points:
            path = folder / f"ablation-{_file_name(model)}-{budget_bytes}.png"
            draw_ablation(title, points, path)
            yield f"![Ablation of {_cell(title)}]({path.name})"
        yield _table(
            ("contestant", "budget, MB", "memory, MB", "latency, ms", "of stock fp32 beside it", "streamed, MB"),
            _bench_rows(group[-1]),
        )


def _overhead(lines: Sequence[Line]) -> Iterator[str]:
    if lines:
        yield (
            "## Overhead\n\nSteps before the first inference, each a command in an empty cache; every one includes "
            "what `start` takes. Where joules are missing the machine does not tell them."
        )
    for line in lines:
        cell = line["cell"]
        yield f"### {_cell(cell['model'])} within {_mb(cell['budget_bytes'])} MB"
        if line["status"] != "measured":
            yield _cell(f"{line['status']}: {line['message']}")
            continue
        yield f"The model's files have {_mb(line['found']['model_bytes'])} MB."
        yield _table(
            ("step", "seconds", "CPU-seconds", "read from storage, MB", "files left, MB", "joules"),
            (
                (
                    step["step"],
                    f"{step['wall_seconds']:.2f}",
                    f"{step['cpu_seconds']:.2f}",
                    _mb(step["read_bytes"]),
                    _mb(step["left_bytes"]),
                    "" if step["joules"] is None else f"{step['joules']:.1f}",
                )
                for step in line["found"]["steps"]
            ),
        )


def _bench_rows(line: Line) -> Iterator[tuple[str, ...]]:
    """A row for each contestant of a cell, or one that says why there is none."""
    budget_bytes = line["cell"]["budget_bytes"]
    budget = _mb(budget_bytes) if budget_bytes else ""
    if line["status"] != "measured":
        yield "+".join(line["cell"]["configs"]), budget, f"{line['status']}: {line['message']}", "", "", ""
        return
    measured = line["found"]["measured"]
    stock = next((one["latency_ms_median"] for one in measured if one["config"] == "stock"), None)
    busy = f" {_BUSY}" if line["found"]["machine"]["busy"] else ""
    for one in measured:
        yield (
            one["config"] + (f" ({one['note']})" if one["note"] else ""),
            budget if one["config"].startswith("flexnn") else "",
            _mb(one["peak_bytes"]),
            f"{one['latency_ms_median']:.4g} [{one['latency_ms_min']:.4g}, {one['latency_ms_max']:.4g}]{busy}",
            f"{one['latency_ms_median'] / stock:.2f}" if stock else "",
            _mb(one["weights_streamed_bytes"]),
        )


def _groups(lines: Sequence[Line], key: Any) -> list[tuple[Any, list[Line]]]:
    """Lines with the same key of their cell, in the order in which the keys come."""
    found: dict[Any, list[Line]] = {}
    for line in lines:
        found.setdefault(key(line["cell"]), []).append(line)
    return list(found.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text from files, such as names, which Markdown is not to read as anything else."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))


def _file_name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", Path(model).stem if model.endswith(".param") else model)


def _mb(count_bytes: int) -> str:
    return f"{count_bytes / 1e6:.4g}"
