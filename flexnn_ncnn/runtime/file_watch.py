"""Whether a file is still the one that was opened."""

from __future__ import annotations

import os

from flexnn_ncnn.errors import ModelChangedError

__all__ = ["FileWatch"]


class FileWatch:
    """Remembers a file as it is when this is made.

    Args:
        path: the file.
        descriptor: of it, open.
    """

    def __init__(self, path: str | os.PathLike[str], descriptor: int) -> None:
        self._path, self._descriptor = os.path.abspath(path), descriptor
        self._state = _state(os.fstat(descriptor))

    def check(self) -> None:
        """Costs two system calls.

        Raises:
            ModelChangedError: the file was written to, cut short, or has another one in its place. One that was
                removed is still there for who has it open.
        """
        changed = _state(os.fstat(self._descriptor)) != self._state
        try:
            replaced = _state(os.stat(self._path)) != self._state
        except OSError:
            replaced = False
        if changed or replaced:
            raise ModelChangedError(
                f"{'was written to' if changed else 'was replaced'} while it was in use",
                path=self._path,
                hint="run it again: the model is opened anew",
            )


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
