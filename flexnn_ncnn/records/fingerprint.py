"""What a profile or plan belongs to: the machine and the model."""

from __future__ import annotations

import os

from flexnn_ncnn.records.machine import this_machine
from flexnn_ncnn.records.sha256 import sha256
from param_tools.errors import ModelFormatError
from param_tools.files import open_regular

__all__ = ["machine_fingerprint", "model_identity"]

_SAMPLES, _SAMPLE_BYTES = 16, 4096


def machine_fingerprint(ncnn_version: str) -> str:
    """A short digest of everything that ncnn's choice of kernels and sizes depends on, see `machine.Machine`."""
    return this_machine(ncnn_version).fingerprint


def model_identity(param_path: str | os.PathLike[str], bin_path: str | os.PathLike[str]) -> str:
    """A digest of a model that is cheap for any size: the whole .param, and size and samples of the .bin.

    A plan depends on where weights lie, not on their values, so samples do.

    Raises:
        ModelFormatError: either file cannot be read.
    """
    digest = sha256()
    for path, whole in ((param_path, True), (bin_path, False)):
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(size.to_bytes(8, "little"))
                if whole:
                    digest.update(file.read())
                    continue
                for i in range(_SAMPLES):
                    file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
        except OSError as error:
            raise ModelFormatError(f"cannot be read: {error.strerror}", path=path) from error
    return digest.hexdigest()[:32]
