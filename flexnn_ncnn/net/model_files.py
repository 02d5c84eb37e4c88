"""Where a net's model is: files of the user's, or copies of what came from memory or from a DataReader."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from flexnn_ncnn.paths import cache_dir
from param_tools.encoding import Encoding
from param_tools.errors import FlexnnError, ModelFormatError
from param_tools.files import atomic_write
from param_tools.graph import Model
from param_tools.schema import LAYERS, ArraySpec, array_specs

__all__ = ["ReadBytes", "SpoolFolder"]

_CHUNK_BYTES = 4 * 1024 * 1024

ReadBytes = Callable[[int], Any]
"""Gives so many bytes as a buffer, fewer at the end."""


class SpoolFolder:
    """A folder in the cache folder for the copies of one net; it goes with the object, and at exit.

    Streaming reads weights again and again, which needs a file.

    Args:
        parent: the cache folder, None for the platform's.
    """

    def __init__(self, parent: Path | None) -> None:
        self._parent = parent
        self._path: Path | None = None
        self._remove: Callable[[], object] = lambda: None

    def write_param(self, text: str, name: str) -> Path:
        """A .param with this text.

        Raises:
            FlexnnError: it cannot be written.
        """
        path = self._folder() / name
        with atomic_write(path) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        return path

    def write_bin(self, model: Model, read: ReadBytes) -> Path:
        """A .bin with the weights of `model`, read as ncnn reads them: to the last one and no further.

        Raises:
            ModelFormatError: `read` ends too early, or the layers do not say how many weights they have.
            FlexnnError: it cannot be written.
        """
        path = self._folder() / "model.bin"
        with atomic_write(path) as file:
            for chunk in _weights(model, read):
                file.write(chunk)
        return path

    def close(self) -> None:
        """Remove the folder; a net that is loaded again gets another one."""
        self._remove()
        self._path, self._remove = None, lambda: None

    def _folder(self) -> Path:
        if self._path is None:
            import tempfile

            parent = (self._parent or cache_dir()) / "nets"
            try:
                parent.mkdir(parents=True, exist_ok=True)
                _sweep(parent)
                made = Path(tempfile.mkdtemp(prefix=".", dir=parent))  # a name that is not swept
                lock = _locked(made)
                self._path = made.rename(parent / made.name[1:])
            except OSError as error:
                raise FlexnnError(f"{parent} cannot keep a model: {error.strerror}") from error
            self._remove = weakref.finalize(self, _remove_folder, self._path, lock, os.getpid())
        return self._path


def _weights(model: Model, read: ReadBytes) -> Iterator[Any]:
    """The bytes of the .bin, in pieces."""
    for layer in model.layers:
        for spec in array_specs(layer) if layer.type in LAYERS else ():
            where = f"{spec.name!r} of layer {layer.name!r}"
            encoding = _untagged(spec)
            if encoding is None:
                tag = _exactly(read, Encoding.FP32.tag_bytes, where)
                yield tag
                encoding = Encoding.of_tag(int.from_bytes(bytes(tag), "little"))
            left = encoding.payload_bytes(spec.count)
            left += Encoding.padding_bytes(left)
            while left:
                chunk = _exactly(read, min(left, _CHUNK_BYTES), where)
                yield chunk
                left -= len(chunk)


def _untagged(spec: ArraySpec) -> Encoding | None:
    if spec.tagged:
        return None
    return Encoding.INT8_UNTAGGED if spec.packed else Encoding.FP32_UNTAGGED


def _exactly(read: ReadBytes, size_bytes: int, where: str) -> Any:
    chunk = np.frombuffer(read(size_bytes), np.uint8)
    if chunk.nbytes != size_bytes:
        raise ModelFormatError(
            f"the weights end inside {where}", hint="they do not belong to the .param, or are cut off"
        )
    return chunk


def _locked(folder: Path) -> IO[bytes] | None:
    """A lock that the system lets go of when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        return None
    lock = open(folder / "lock", "wb")  # noqa: SIM115 - held as long as the folder
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _sweep(parent: Path) -> None:
    """Remove what processes left that were killed."""
    for folder in parent.iterdir():
        if folder.name.startswith("."):
            continue
        try:
            lock = _locked(folder)
        except OSError:  # in use, or gone meanwhile
            continue
        if lock is not None:
            _remove_folder(folder, lock, os.getpid())


def _remove_folder(folder: Path, lock: IO[bytes] | None, owner: int) -> None:
    if os.getpid() == owner:  # not in a child of a fork
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        lock.close()
