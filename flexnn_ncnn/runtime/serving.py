"""How a child process serves `flexnn_ncnn.children`: JSON, one object a line, requests on stdin and answers on stdout.

A request names its task under "do". While it works on one, a task may send any number of {"progress": [...]} lines;
one line ends it, the answer or {"error": {...}}.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flexnn_ncnn.errors import FlexnnError

__all__ = ["Progress", "Task", "describe_error", "restore_error", "serve"]

_ROOMS = ("flexnn_ncnn.", "param_tools.")

Progress = Callable[[str, int, int], None]
Task = Callable[[Mapping[str, Any], Progress], dict[str, Any]]


def serve(tasks: Mapping[str, Task]) -> int:
    """Answers requests until stdin ends.

    Args:
        tasks: by name; each gets the request and a function that reports (what, done, of).

    Returns:
        The exit status. Errors of ours, of the system and want of memory are answers; anything else is a bug and ends
        the process with its traceback.
    """
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = tasks[request["do"]](request, _send_progress)
        except FlexnnError as error:
            answer = {"error": describe_error(error)}
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            answer = {"error": describe_error(FlexnnError(f"{place}{error.strerror or error}"))}
        except MemoryError:
            answer = {"error": describe_error(FlexnnError("out of memory"))}
        _send(answer)
    return 0


def describe_error(error: FlexnnError) -> dict[str, Any]:
    """An error as plain values that JSON can carry to another process."""
    kind = type(error)
    plain = {name: value for name, value in vars(error).items() if isinstance(value, (str, int, float, type(None)))}
    return {"module": kind.__module__, "type": kind.__qualname__, "attributes": plain}


def restore_error(described: Mapping[str, Any]) -> FlexnnError:
    """The error that `describe_error` described: the same class, sentence, hint, attributes and exit status."""
    module, name = described["module"], described["type"]
    kind = getattr(importlib.import_module(module), name, None) if module.startswith(_ROOMS) else None
    if not (isinstance(kind, type) and issubclass(kind, FlexnnError)):
        kind = FlexnnError
    error = kind.__new__(kind, described["attributes"]["message"])
    vars(error).update(described["attributes"])
    return error


def _send(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _send_progress(what: str, done: int, of: int) -> None:
    _send({"progress": [what, done, of]})
