"""Workers: child processes that run or measure a model, started and talked to from here.

What a model file makes ncnn do, it does in there: a crash ends the child and is a sentence here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import FlexnnError
from flexnn_ncnn.paths import python_path
from flexnn_ncnn.runtime.cpu import CPUS_VARIABLE, born_on_one_cpu, usable_cpus
from flexnn_ncnn.runtime.serving import restore_error

__all__ = ["Worker", "WorkerError", "saved_arrays"]


class WorkerError(FlexnnError):
    """A child process that died."""


class Worker:
    """A child process; a context manager.

    Args:
        module: what it runs, `python -m MODULE`, which serves as `flexnn_ncnn.runtime.serving` says.
        task: what it does, for people: the subject of "... crashed".
        threads: how many it computes on; one stays on one CPU, where its memory can be told exactly.
        padding_bytes: how much larger its environment is than ours, which shifts what lies in its heap.
    """

    def __init__(
        self,
        module: str = "flexnn_ncnn.runtime.worker",
        task: str = "running the model",
        *,
        threads: int = 0,
        padding_bytes: int = 0,
    ) -> None:
        self._task = task
        environment = dict(os.environ, PYTHONPATH=python_path(), FLEXNN_PADDING="x" * padding_bytes)
        environment.setdefault(CPUS_VARIABLE, usable_cpus())
        with born_on_one_cpu(threads == 1):
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; we end the child ourselves
            )

    @property
    def process_id(self) -> int:
        """Of the child process."""
        return self._process.pid

    def ask(self, do: str, progress: Callable[[str, int, int], None] | None = None, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            do: the task.
            progress: called with (what, done, of) as the child reports it.
            request: what the task needs, as JSON can say it.

        Raises:
            FlexnnError: whatever the child raised, as if raised here.
            WorkerError: the child died.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise restore_error(answer["error"])
            if "progress" not in answer:
                return answer
            if progress is not None:
                progress(*answer["progress"])
        raise self._death()

    def close(self) -> None:
        """End the process."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it died with a request unread
            process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None:
            self._process.kill()
        self.close()

    def _death(self) -> WorkerError:
        status = self._process.wait()
        if status == -signal.SIGKILL:
            return WorkerError(f"{self._task} was killed by the system", hint="it may have run out of memory")
        if status < 0:
            name = signal.Signals(-status).name
            return WorkerError(
                f"{self._task} crashed inside ncnn ({name})",
                hint="the model or the input is damaged, or uses what this ncnn cannot do",
            )
        return WorkerError(f"{self._task} ended unexpectedly with exit status {status}", hint="see what it printed")


@contextmanager
def saved_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, str]]:
    """The arrays as temporary .npy files: name -> path."""
    with tempfile.TemporaryDirectory(prefix="flexnn-") as folder:
        paths = {name: str(Path(folder) / f"{i}.npy") for i, name in enumerate(arrays)}
        for name, path in paths.items():
            np.save(path, arrays[name])
        yield paths
