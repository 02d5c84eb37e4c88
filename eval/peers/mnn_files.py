"""ONNX graphs as MNN wants them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from param_tools.errors import FlexnnError

__all__ = ["convert"]

# The converter's native entry: importing MNN.tools would install a package that reports home.
_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"


def convert(graph: Path, folder: Path, *, external_weights: bool) -> tuple[Path, ...]:
    """The MNN model of an ONNX graph, converted in a child process unless it is there.

    Args:
        graph: the ONNX file.
        folder: where it goes.
        external_weights: whether weights go to a file of their own.

    Returns:
        The files, the one with the weights last.

    Raises:
        FlexnnError: MNN cannot convert it.
    """
    path = folder / ("external.mnn" if external_weights else "model.mnn")
    weights = path.with_suffix(".mnn.weight")
    done = path.with_suffix(".done")
    if not done.exists():
        arguments = ["-f", "ONNX", "--modelFile", str(graph), "--MNNModel", str(path), "--bizCode", "eval"]
        arguments += ["--saveExternalData"] if external_weights else []
        found = subprocess.run(
            [sys.executable, "-c", _CONVERT, *arguments], capture_output=True, text=True, check=False, cwd=folder
        )
        if found.returncode != 0 or not path.exists():
            said = (found.stderr or found.stdout).strip().splitlines() or ["it said nothing"]
            raise FlexnnError(f"MNN cannot convert {graph.name}: {said[-1]}")
        done.touch()
    return (path, weights) if weights.exists() else (path,)
