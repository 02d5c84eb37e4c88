"""A process of its own that runs another runtime and tells time and memory: `python -m eval.peers.worker`.

It answers as `flexnn_ncnn.runtime.worker` does: one object of JSON a line, requests on stdin and answers on stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["RUNTIMES", "main"]

Arrays = dict[str, npt.NDArray[Any]]
Runner = Callable[[Arrays], Arrays]

# of MNN's Interpreter::HintMode, which its Python package has no name for
_WINOGRAD_MEMORY_LEVEL = 3


def _onnxruntime(runtime: Any, graph: str, threads: int, setup: Mapping[str, Any]) -> Runner:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if setup["low_memory"]:
        # weights stay in the mapped file: no copies in other layouts, none packed ahead
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def _openvino(runtime: Any, graph: str, threads: int, setup: Mapping[str, Any]) -> Runner:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = runtime.Core().compile_model(graph, "CPU", settings)
    request, names = compiled.create_infer_request(), [one.get_any_name() for one in compiled.outputs]

    def run(inputs: Arrays) -> Arrays:
        found = request.infer(inputs)
        return {name: np.array(found[one]) for name, one in zip(names, compiled.outputs, strict=True)}

    return run


def _mnn(runtime: Any, graph: str, threads: int, setup: Mapping[str, Any]) -> Runner:
    low = setup["low_memory"]
    config = {"backend": 0, "numThread": threads, "precision": "high", "memory": "low" if low else "normal"}
    manager = runtime.nn.create_runtime_manager((config,))
    if low:
        manager.set_hint(_WINOGRAD_MEMORY_LEVEL, 0)
        manager.set_external(graph + ".weight")
    module = runtime.nn.load_module_from_file(graph, [], [], runtime_manager=manager, shape_mutable=False)
    info = module.get_info()

    def run(inputs: Arrays) -> Arrays:
        fed = []
        for name, variable in zip(info["inputNames"], info["inputs"], strict=True):
            kind = runtime.expr.int if inputs[name].dtype == np.int32 else runtime.expr.float
            one = runtime.expr.const(inputs[name], list(inputs[name].shape), runtime.expr.NCHW, kind)
            fed.append(runtime.expr.convert(one, variable.data_format))
        found = module.forward(fed)
        layout = runtime.expr.NCHW
        return {
            name: np.array(runtime.expr.convert(one, layout).read(), copy=True)
            for name, one in zip(info["outputNames"], found, strict=True)
        }

    return run


RUNTIMES: dict[str, tuple[str, Callable[[Any, str, int, Mapping[str, Any]], Runner]]] = {
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "openvino": ("openvino", _openvino),
    "mnn": ("MNN", _mnn),
}
"""Runtime -> its module, and what opens a graph with it."""


class _Worker:
    """The state between requests."""

    def __init__(self) -> None:
        self._run: Runner | None = None
        self._inputs: Arrays = {}
        self._outputs: Arrays = {}
        self._idle_bytes = 0

    def idle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Import the runtime; from here on memory counts."""
        importlib.import_module(RUNTIMES[request["runtime"]][0])
        return {}

    def open(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Note the idle process, load the inputs and the graph."""
        module, opens = RUNTIMES[request["runtime"]]
        runtime = importlib.import_module(module)
        exact = self._begin()
        # networks of the zoo have no batch dimension, graphs of the peers one of 1
        self._inputs = {blob: np.load(path)[None] for blob, path in request["inputs"].items()}
        begin = time.perf_counter()
        self._run = opens(runtime, request["graph"], request["threads"], request["setup"])
        return {"load_seconds": time.perf_counter() - begin, "exact": exact, "peak_bytes": self._grown_bytes()}

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One inference."""
        assert self._run is not None
        self._outputs = {}
        begin = time.perf_counter()
        self._outputs = self._run(self._inputs)
        return {"seconds": time.perf_counter() - begin, "peak_bytes": self._grown_bytes()}

    def save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write outputs of the last inference, each to a .npy file."""
        for blob, path in request["outputs"].items():
            np.save(path, self._outputs[blob])
        return {}

    def _begin(self) -> bool:
        """Start the peak anew; whether the system lets us."""
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            self._idle_bytes = _status_bytes("VmHWM")
            return False
        self._idle_bytes = _status_bytes("VmRSS")
        return True

    def _grown_bytes(self) -> int:
        return _status_bytes("VmHWM") - self._idle_bytes


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _close(*descriptors: int) -> None:
    for one in descriptors:
        os.close(one)


def main() -> int:
    """Answer requests until stdin ends; what runtimes print to stdout is not ours to show."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # processes that a runtime forks would keep the pipes open after our end
    os.register_at_fork(after_in_child=lambda: _close(answers.fileno(), 0))
    # nothing is to be reported from here, which OpenVINO would fork a process for
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    worker = _Worker()
    tasks = {"idle": worker.idle, "open": worker.open, "run": worker.run, "save": worker.save}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = tasks[request["do"]](request)
        except Exception as error:  # a runtime can raise anything
            message = " ".join(str(error).split())[:300] or type(error).__name__
            described = {"message": message, "hint": ""}
            answer = {"error": {"module": "param_tools.errors", "type": "FlexnnError", "attributes": described}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
