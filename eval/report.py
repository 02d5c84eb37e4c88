"""`report.md` and `report.html`: all that was measured as tables, with the figures beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.devices import DEVICES
from eval.figures import Point, draw_adaptation, draw_bars, draw_end_to_end, said_if_busy
from eval.published import published_model, source_and_note
from eval.results import Results
from eval.tables import (
    BUSY,
    CONTEST_HEAD,
    LIMIT_HEAD,
    PHASE_HEAD,
    STEP_HEAD,
    contest_rows,
    escaped,
    limit_rows,
    megabytes,
    peer_titles,
    phase_rows,
    step_rows,
    table,
)
from param_tools.model_io import atomic_write

__all__ = ["points_of", "write_report"]

Line = Mapping[str, Any]

_LATENCY_COLOUR, _MEMORY_COLOUR, _LIMIT_COLOUR = "#2f5d8a", "#6fb98f", "#e07a3f"
_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>FlexNN's evaluation, repeated</title><style>
body {{ font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: 1em 0; font-size: 13px; }}
td, th {{ border: 1px solid #ddd; padding: 2px 8px; text-align: left; }} img {{ max-width: 100%; }}
</style></head><body>
{}</body></html>
"""


def write_report(results: Results, folder: Path) -> Path:
    """Writes report.md, report.html, which has all in one file, and the figures; returns the first one's path.

    Args:
        results: what was measured.
        folder: where the report and its figures go.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    lines = {name: results.latest(name) for name in ("end-to-end", "ablation", "overhead", "adaptive", "peers")}
    parts = [
        "# FlexNN's evaluation, repeated",
        _machine(results.machine),
        *_busy_note([line for found in lines.values() for line in found]),
        *_end_to_end(lines["end-to-end"], folder),
        *_ablation(lines["ablation"], folder),
        *_overhead(lines["overhead"], folder),
        *_adaptive(lines["adaptive"], folder),
        *_peers(lines["peers"], folder),
    ]
    path, text = folder / "report.md", "\n\n".join(parts) + "\n"
    with atomic_write(path, "w") as file:
        file.write(text)
    with atomic_write(folder / "report.html", "w") as file:
        file.write(_html(text, folder))
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
        f"Measured on {machine['cpus']} CPUs ({escaped(cores)}, {machine['architecture']}, {machine['system']}) with "
        f"ncnn {machine['ncnn_version']}; fingerprint `{machine['fingerprint']}`.\n\n"
        "*RSS growth* is what the resident set grew by at most over the idle process, loading included. *With page "
        "cache* is what the process's control group held at most beyond the idle process, pages of the model's file "
        "that it made the system read included; empty where there are no control groups (they need root). *Load* is "
        "opening the model in a new process while its files are not in the page cache, *cold* the first inference "
        "after that; *warm* are the later ones: "
        f"medians, with the fastest and slowest in brackets. {BUSY} marks those taken while other programs took so "
        "much of the machine that times say little. *Read* is what came from storage until the cold inference ended, "
        "and in each warm one. *Difference* is the largest of outputs from stock fp32's, by their largest magnitude."
    )


def _busy_note(lines: Sequence[Line]) -> Iterator[str]:
    measured = [line for line in lines if line["status"] == "measured" and "machine" in line["found"]]
    busy = sum(line["found"]["machine"]["busy"] for line in measured)
    if busy:
        yield f"**The machine was busy with other things in {busy} of {len(measured)} measurements.**"


def _end_to_end(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        source, note = source_and_note()
        yield f"## End to end\n\nPublished points: {source}. {note}"
    for (model, device), group in _groups(lines, lambda cell: (cell["model"], cell["device"])):
        yield f"### {escaped(model)}{_on(device)}"
        points = points_of(group)
        if points:
            path = folder / f"end-to-end-{_file_name(model)}{_suffix(device)}.png"
            draw_end_to_end(model, points, path, "" if device == "host" else DEVICES[device].title)
            yield f"![Latency over memory of {escaped(model)}]({path.name})"
        published = published_model(model)
        if published and published.differs:
            yield f"Published and measured models differ: {published.differs}."
        yield table(CONTEST_HEAD, (row for line in group for row in contest_rows(line)))


def _ablation(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        yield "## Ablation"
    for line in lines:
        model, budget_bytes, device = (line["cell"][name] for name in ("model", "budget_bytes", "device"))
        title = f"{Path(model).stem} within {megabytes(budget_bytes)} MB"
        yield f"### {escaped(title)}{_on(device)}"
        points = points_of([line])
        if points:
            path = folder / f"ablation-{_file_name(model)}-{budget_bytes}{_suffix(device)}.png"
            columns = (
                ("one warm inference, ms", [point.latency_ms for point in points], _LATENCY_COLOUR),
                ("RSS growth, MB", [point.peak_bytes / 1e6 for point in points], _MEMORY_COLOUR),
            )
            draw_bars(
                title + said_if_busy(line["found"]["machine"]["busy"]),
                [point.config for point in points],
                columns,
                path,
            )
            yield f"![Ablation of {escaped(title)}]({path.name})"
        yield table(CONTEST_HEAD, contest_rows(line))


def _overhead(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        yield (
            "## Overhead\n\nSteps before the first inference, each a command in an empty cache; every one includes "
            "what `start` takes. Where joules are missing the machine does not tell them: CPU-seconds and bytes read "
            "stand for them, and are no energy."
        )
    measured = [line for line in lines if line["status"] == "measured"]
    if measured:
        names = [
            f"{Path(line['cell']['model']).stem} {step['step']}"
            for line in measured
            for step in line["found"]["steps"][1:]
        ]
        steps = [step for line in measured for step in line["found"]["steps"][1:]]
        columns = (
            ("seconds", [step["wall_seconds"] for step in steps], _LATENCY_COLOUR),
            ("files left, MB", [step["left_bytes"] / 1e6 for step in steps], _MEMORY_COLOUR),
        )
        draw_bars("What comes before the first inference", names, columns, folder / "overhead.png")
        yield "![Seconds and storage of the steps before the first inference](overhead.png)"
    for line in lines:
        cell = line["cell"]
        yield f"### {escaped(cell['model'])} within {megabytes(cell['budget_bytes'])} MB{_on(cell['device'])}"
        if line["status"] != "measured":
            yield escaped(f"{line['status']}: {line['message']}")
            continue
        yield f"The model's files have {megabytes(line['found']['model_bytes'])} MB."
        yield table(STEP_HEAD, step_rows(line))


def _adaptive(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        yield (
            "## Adaptive\n\nThe budget changes while the model computes (`flexnn adapt`): inference goes on while the "
            "next plan is made and its weights are loaded between inferences, which *delays* one by so much at most; "
            "it *stops* only while the new plan takes the old one's place."
        )
    for line in lines:
        model, device = line["cell"]["model"], line["cell"]["device"]
        yield f"### {escaped(model)}{_on(device)}"
        if line["status"] != "measured":
            yield escaped(f"{line['status']}: {line['message']}")
            continue
        path = folder / f"adaptive-{_file_name(model)}{_suffix(device)}.png"
        busy = said_if_busy(line["found"]["machine"]["busy"])
        draw_adaptation(line["found"], f"{Path(model).stem} under changing budgets{busy}", path)
        yield f"![Latency and memory over time of {escaped(model)}]({path.name})"
        yield table(PHASE_HEAD, phase_rows(line["found"]))


def _peers(lines: Sequence[Line], folder: Path) -> Iterator[str]:
    if lines:
        titles = peer_titles(dict.fromkeys(config for line in lines for config in line["cell"]["configs"]))
        yield f"## Peers\n\nThe same graphs in other runtimes. {'; '.join(titles)}."
    for line in lines:
        cell = line["cell"]
        title = f"{Path(cell['model']).stem}, flexnn within {megabytes(cell['budget_bytes'])} MB"
        yield f"### {escaped(title)}{_on(cell['device'])}"
        if line["status"] == "measured" and line["found"]["measured"]:
            path = folder / f"peers-{_file_name(cell['model'])}{_suffix(cell['device'])}.png"
            measured = line["found"]["measured"]
            limits = [(one.get("limit") or {}).get("survived_bytes") for one in measured]
            columns = [
                ("warm inference, ms", [one["latency_ms_median"] for one in measured], _LATENCY_COLOUR),
                ("RSS growth, MB", [one["peak_bytes"] / 1e6 for one in measured], _MEMORY_COLOUR),
            ]
            if any(limits):
                survived = [size and size / 1e6 for size in limits]
                columns.append(("smallest limit survived, MB", survived, _LIMIT_COLOUR))
            draw_bars(
                title + said_if_busy(line["found"]["machine"]["busy"]),
                [one["config"] for one in measured],
                columns,
                path,
            )
            yield f"![Peers on {escaped(cell['model'])}]({path.name})"
        yield table(CONTEST_HEAD, contest_rows(line))
        if line["status"] == "measured" and cell["limit_percent"]:
            yield (
                "The smallest memory limit that was survived, page cache counted and the idle process not, found to "
                f"within {cell['limit_percent']} %, one run for each; at that limit a runtime that maps its weights "
                "reads them again and again. An inference there, with --quick the cold one:"
                if not line["found"]["root"]
                else f"No smallest memory limits, which need root: {escaped(line['found']['root'])}."
            )
            if not line["found"]["root"]:
                yield table(LIMIT_HEAD, limit_rows(line))


def _html(text: str, folder: Path) -> str:
    """The report as one file, pictures in it."""
    from markdown_it import MarkdownIt

    def inlined(found: re.Match[str]) -> str:
        data = base64.b64encode((folder / found[1]).read_bytes()).decode("ascii")
        return f'src="data:image/png;base64,{data}"'

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    return _HTML.format(re.sub(r'src="([A-Za-z0-9_.-]+\.png)"', inlined, body))


def _groups(lines: Sequence[Line], key: Callable[[Mapping[str, Any]], Any]) -> list[tuple[Any, list[Line]]]:
    """Lines with the same key of their cell, in the order in which the keys come."""
    found: dict[Any, list[Line]] = {}
    for line in lines:
        found.setdefault(key(line["cell"]), []).append(line)
    return list(found.items())


def _on(device: str) -> str:
    return "" if device == "host" else f", as on a {escaped(DEVICES[device].title)}"


def _suffix(device: str) -> str:
    return "" if device == "host" else f"-{device}"


def _file_name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "_", Path(model).stem if model.endswith(".param") else model)
