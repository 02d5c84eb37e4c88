"""SHA-256 without OpenSSL, which `import hashlib` loads: 3.6 MB of every process that runs a plan."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["sha256"]


def _find() -> Any:
    for name in ("_sha2", "_sha256"):  # of Python 3.12 and later, and of earlier ones
        try:
            return import_module(name).sha256
        except (ImportError, AttributeError):
            continue
    import hashlib

    return hashlib.sha256


if TYPE_CHECKING:
    from hashlib import sha256
else:
    sha256 = _find()
