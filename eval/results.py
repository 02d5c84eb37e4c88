"""Results on disk: a line of JSON for each cell, written as soon as it is measured."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.cells import Cell
from flexnn_ncnn.errors import InputError
from param_tools.errors import FlexnnError
from param_tools.model_io import atomic_write

__all__ = ["Results"]

_VERSION = 2
# what differs between efforts for the same thing
_EFFORT = ("loops", "warmups", "passes", "limit_percent")


class Results:
    """The results in a folder, which is made if need be.

    A line that was cut short, by a crash or a full disk, is dropped when the folder is opened: only the last one can
    be.

    Args:
        folder: holds machine.json and results.jsonl.
        machine: what `flexnn fingerprint --json` says about this machine.

    Raises:
        InputError: the folder holds another machine's results, or a file that is none.
        FlexnnError: it cannot be written.

    Attributes:
        lines: what there is, in the order in which it was measured.
        machine: as given.
    """

    def __init__(self, folder: Path, machine: Mapping[str, Any]) -> None:
        self.machine = machine
        self._path = folder / "results.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlexnnError(f"{folder} cannot be made: {error.strerror}") from error
        self._claim(folder / "machine.json")
        self.lines = self._read()

    def holds(self, cell: Cell) -> bool:
        """Whether the cell was measured, or refused for a reason that stays; one that failed is measured again."""
        return any(line["cell"] == cell.key and line["status"] != "failed" for line in self.lines)

    def append(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Keep what was found of a cell; on the disk when this returns."""
        line = {"version": _VERSION, "machine": self.machine["fingerprint"], "cell": cell.key, **result}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(line)

    def latest(self, experiment: str) -> list[dict[str, Any]]:
        """Of each cell of an experiment the result with most inferences, and of those the last."""
        found: dict[str, dict[str, Any]] = {}
        for line in self.lines:
            cell = line["cell"]
            what = json.dumps({name: value for name, value in cell.items() if name not in _EFFORT})
            if cell["experiment"] == experiment and _inferences(line) >= _inferences(found.get(what, line)):
                found[what] = line
        return list(found.values())

    def _claim(self, path: Path) -> None:
        if path.exists():
            known = _object(path.read_text(encoding="utf-8"))
            if known is None or known.get("fingerprint") != self.machine["fingerprint"]:
                raise InputError(f"{path} is not about this machine", hint="give another --out")
        else:
            with atomic_write(path, "w") as file:
                json.dump(self.machine, file, indent=2)

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        lines = data.splitlines(keepends=True)
        if lines and (not lines[-1].endswith(b"\n") or _object(lines[-1].decode("utf-8", "replace")) is None):
            damaged = lines.pop()
            with self._path.open("r+b") as file:
                file.truncate(len(data) - len(damaged))
                os.fsync(file.fileno())
        found = []
        for number, text in enumerate(lines, start=1):
            line = _object(text.decode("utf-8", "replace"))
            if line is None or line.get("version") != _VERSION or not isinstance(line.get("cell"), dict):
                raise InputError(f"{self._path}:{number} is no result", hint="mend the line, or give another --out")
            found.append(line)
        return found


def _inferences(line: Mapping[str, Any]) -> int:
    return int(line["cell"]["loops"] * line["cell"]["passes"])


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
