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

    def check_contents(self) -> None:
        """Costs one system call.

        Raises:
            ModelChangedError: the file was written to or cut short.
        """
        if _state(os.fstat(self._descriptor)) != self._state:
            raise self._error("was written to")

    def check(self) -> None:
        """Costs two system calls.

        Raises:
            ModelChangedError: the file was written to, cut short, or has another one in its place. One that was
                removed is still there for who has it open.
        """
        self.check_contents()
        try:
            found = os.stat(self._path)
        except OSError:
            return
        if _state(found) != self._state:
            raise self._error("was replaced")

    def _error(self, what: str) -> ModelChangedError:
        hint = "run it again: the model is opened anew"
        return ModelChangedError(f"{what} while it was in use", path=self._path, hint=hint)


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
