"""Child processes: errors come back as they were, crashes as sentences."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flexnn_ncnn.children import Worker, WorkerError, saved_arrays
from flexnn_ncnn.errors import BudgetError, FlexnnError, InputError
from flexnn_ncnn.runtime.native import NcnnError
from flexnn_ncnn.runtime.serving import describe_error, restore_error
from param_tools.errors import ModelFormatError

SERVER = """
import os, signal, sys
from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.runtime.serving import serve

def refuse(request, progress):
    raise BudgetError(budget_bytes=5, smallest_bytes=request["smallest"], culprit="layer 'fc'")

def work(request, progress):
    for done in range(3):
        progress("counting", done, 3)
    return {"pid": os.getpid()}

def crash(request, progress):
    os.kill(os.getpid(), request["signal"])

def full(request, progress):
    raise OSError(28, "No space left on device", "plan.json")

def starve(request, progress):
    raise MemoryError

def leave(request, progress):
    sys.exit(7)

sys.exit(serve({name: task for name, task in list(globals().items()) if callable(task) and name != "serve"}))
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Worker]:
    (tmp_path / "server_for_tests.py").write_text(SERVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return lambda: Worker("server_for_tests", "the test")


def test_a_worker_answers_and_reports_progress(start: Callable[[], Worker]) -> None:
    seen: list[tuple[str, int, int]] = []
    with start() as worker:
        assert worker.ask("work", lambda *one: seen.append(one))["pid"] != os.getpid()
        assert worker.ask("work")["pid"]
    assert seen == [("counting", 0, 3), ("counting", 1, 3), ("counting", 2, 3)]


def test_errors_keep_class_status_and_attributes(start: Callable[[], Worker]) -> None:
    with start() as worker:
        with pytest.raises(BudgetError, match="layer 'fc' needs 9 B; give 9B or more") as caught:
            worker.ask("refuse", smallest=9)
        assert (caught.value.smallest_bytes, caught.value.exit_code) == (9, 3)
        with pytest.raises(FlexnnError, match=r"plan\.json: No space left on device"):
            worker.ask("full")
        with pytest.raises(FlexnnError, match="out of memory"):
            worker.ask("starve")
        assert worker.ask("work")  # it lives on


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGSEGV, r"the test crashed inside ncnn \(SIGSEGV\); the model or the input is damaged"),
        (signal.SIGFPE, r"the test crashed inside ncnn \(SIGFPE\)"),
        (signal.SIGKILL, "the test was killed by the system; it may have run out of memory"),
    ],
)
def test_a_crash_is_a_sentence(start: Callable[[], Worker], number: signal.Signals, words: str) -> None:
    with start() as worker:
        with pytest.raises(WorkerError, match=words):
            worker.ask("crash", signal=number)
        with pytest.raises(WorkerError, match=words):
            worker.ask("work")


def test_a_worker_that_leaves_is_missed(start: Callable[[], Worker]) -> None:
    with start() as worker, pytest.raises(WorkerError, match="the test ended unexpectedly with exit status 7"):
        worker.ask("leave")


def test_a_worker_is_ended_when_its_block_fails(start: Callable[[], Worker]) -> None:
    worker = start()
    pid = worker.ask("work")["pid"]
    with pytest.raises(FlexnnError, match="out of memory"), worker:
        worker.ask("starve")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    "error",
    [
        InputError("wrong shape", hint="give 3x4"),
        ModelFormatError("bad magic", path="m.param", line=3),
        NcnnError("load_param failed"),
        BudgetError(budget_bytes=1, smallest_bytes=2, culprit="x"),
    ],
)
def test_an_error_crosses_and_is_the_same(error: FlexnnError) -> None:
    found = restore_error(describe_error(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))


def test_only_our_own_errors_are_made_of_a_description() -> None:
    made = restore_error({"module": "subprocess", "type": "Popen", "attributes": {"message": "m", "hint": ""}})
    assert type(made) is FlexnnError
    other = restore_error({"module": "flexnn_ncnn.units", "type": "re", "attributes": {"message": "m", "hint": ""}})
    assert type(other) is FlexnnError


def test_saved_arrays_are_files_for_the_block() -> None:
    with saved_arrays({"a/b": np.arange(3), "c": np.zeros((2, 2))}) as paths:
        np.testing.assert_array_equal(np.load(paths["a/b"]), [0, 1, 2])
        assert np.load(paths["c"]).shape == (2, 2)
    assert not any(Path(path).exists() for path in paths.values())


def test_the_child_imports_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Worker() as worker, pytest.raises(NcnnError, match=r"stock ncnn cannot load no\.param"):
        worker.ask("open", inputs={}, param="no.param", bin="no.bin", options={}, outputs=[])
