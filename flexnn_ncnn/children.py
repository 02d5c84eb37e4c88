"""Workers: child processes that run a model, started and talked to from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from param_tools.errors import FlexnnError

__all__ = ["Worker", "WorkerError", "saved_arrays"]


class WorkerError(FlexnnError):
    """A child process that failed or died."""


class Worker:
    """A child process that runs a model; a context manager.

    Args:
        module: what it runs, `python -m MODULE`.
    """

    def __init__(self, module: str = "flexnn_ncnn.runtime.worker") -> None:
        environment = dict(os.environ, PYTHONPATH=_python_path())
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkerError: the worker failed, with its own words, or died.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the process that ran the model died: {_fate(process.wait())}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"]["message"], hint=answer["error"]["hint"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._process.kill()
        self.close()


@contextmanager
def saved_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, str]]:
    """The arrays as temporary .npy files: name -> path."""
    with tempfile.TemporaryDirectory(prefix="flexnn-") as folder:
        paths = {name: str(Path(folder) / f"{i}.npy") for i, name in enumerate(arrays)}
        for name, path in paths.items():
            np.save(path, arrays[name])
        yield paths


def _python_path() -> str:
    """Where this package is, first, so that the child imports the same one."""
    here = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))


def _fate(status: int) -> str:
    if status == -9:
        return "it was killed, perhaps for want of memory"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
