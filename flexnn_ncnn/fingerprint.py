"""What a profile or plan belongs to: the machine and the model."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from param_tools.errors import ModelFormatError
from param_tools.files import open_regular

__all__ = ["machine_fingerprint", "model_identity"]

_SAMPLES, _SAMPLE_BYTES = 16, 4096


def machine_fingerprint(ncnn_version: str) -> str:
    """A short digest of everything that ncnn's choice of kernels and sizes depends on.

    CPU model and features, level-2 cache, number of CPUs, page size, and the version of ncnn.
    """
    facts = (
        platform.system(),
        platform.machine(),
        _cpu_description(),
        _read("/sys/devices/system/cpu/cpu0/cache/index2/size"),
        str(os.cpu_count()),
        str(os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0),
        ncnn_version,
    )
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def model_identity(param_path: str | os.PathLike[str], bin_path: str | os.PathLike[str]) -> str:
    """A digest of a model that is cheap for any size: the whole .param, and size and samples of the .bin.

    A plan depends on where weights lie, not on their values, so samples do.

    Raises:
        ModelFormatError: either file cannot be read.
    """
    digest = hashlib.sha256()
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


def _cpu_description() -> str:
    """Model and features of the first CPU, as /proc/cpuinfo tells them."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    first = _read("/proc/cpuinfo").split("\n\n")[0].splitlines()
    return "\n".join(line for line in first if line.startswith(wanted)) or platform.processor()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
