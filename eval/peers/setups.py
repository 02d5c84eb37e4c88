"""Which runtimes there are, how each is set up, and what it is told to open."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eval.contest import Entry
from eval.models import ModelFiles
from eval.peers.graphs import write_onnx
from flexnn_ncnn.paths import cache_dir
from flexnn_ncnn.records.fingerprint import model_identity
from param_tools.errors import FlexnnError

__all__ = ["PEERS", "Peer", "peer_entry"]

_WORKER = "eval.peers.worker"


@dataclass(frozen=True, slots=True)
class Peer:
    """A runtime with one way to set it up.

    Attributes:
        title: for people.
        package: what pip calls it.
        runtime: in `eval.peers.worker.RUNTIMES`.
        setup: what that is told.
    """

    title: str
    package: str
    runtime: str
    setup: dict[str, Any]


PEERS: dict[str, Peer] = {
    "ort": Peer("ONNX Runtime as shipped", "onnxruntime", "onnxruntime", {"low_memory": False}),
    "ort-low": Peer(
        "ONNX Runtime for low memory: weights mapped, no prepacking, no arena",
        "onnxruntime",
        "onnxruntime",
        {"low_memory": True},
    ),
    "mnn": Peer("MNN, precision high", "MNN", "mnn", {"low_memory": False}),
    "mnn-low": Peer("MNN for low memory", "MNN", "mnn", {"low_memory": True}),
    "openvino": Peer("OpenVINO, f32", "openvino", "openvino", {}),
}
"""Contestants that are not ncnn."""


def peer_entry(config: str, model: str, files: ModelFiles, threads: int) -> Entry:
    """What the process of a peer is to open; its files are made in the cache folder where they are not there yet.

    Args:
        config: in `PEERS`.
        model: what it is called.
        files: the model.
        threads: compute threads.

    Returns:
        An entry that says what is missing where the peer, or what makes its graphs, is not installed, or where the
        graph has layers that cannot be written for it.
    """
    peer = PEERS[config]
    try:
        packages = [f"{name} {version(name)}" for name in dict.fromkeys((peer.package, "onnx"))]
    except PackageNotFoundError as error:
        return Entry(config, {}, (files.bin_path,), missing=f"{error.name} is not installed")
    try:
        paths = _graph(peer, model, files)
    except FlexnnError as error:
        return Entry(config, {}, (files.bin_path,), missing=error.message)
    opens = {"runtime": peer.runtime, "graph": str(paths[0]), "threads": threads, "setup": peer.setup}
    return Entry(config, opens, paths, module=_WORKER, note=packages[0])


def _graph(peer: Peer, model: str, files: ModelFiles) -> tuple[Path, ...]:
    """The files that a peer reads, the one with the weights last."""
    folder = cache_dir() / "peers" / model_identity(files.param_path, files.bin_path)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {blob: array.shape for blob, array in files.inputs.items()}
    graph, weights = write_onnx(files.param_path, files.bin_path, shapes, folder)
    if peer.runtime != "mnn":
        return graph, weights
    from eval.peers.mnn_files import convert

    return convert(graph, folder, external_weights=peer.setup["low_memory"])
