"""A process of its own that profiles a model: `python -m flexnn_ncnn.profile_worker`.

Profiling runs every layer, in heap settings of its own: neither its memory nor its crashes are the caller's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexnn_ncnn.formats import write_profile
from flexnn_ncnn.options import RunOptions
from flexnn_ncnn.profiler import profile_model
from flexnn_ncnn.runtime.serving import Progress, serve
from param_tools.model_io import open_model

__all__ = ["main"]


def main() -> int:
    """Answer requests until stdin ends."""
    return serve({"profile": _profile})


def _profile(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Profile the model at "param" and "bin" on "inputs", and write the profile to "out"."""
    inputs = {blob: np.load(path) for blob, path in request["inputs"].items()}

    def report(done: int, of: int) -> None:
        progress("profiling layers", done, of)

    with open_model(request["param"], request["bin"]) as model:
        measured = profile_model(
            model,
            request["model_id"],
            request["machine"],
            inputs,
            RunOptions(**request["options"]),
            progress=report,
        )
    write_profile(measured, request["out"])
    return {}


if __name__ == "__main__":
    sys.exit(main())
