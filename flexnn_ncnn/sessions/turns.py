"""Who may use something next: one thread at a time, and whoever changes it before those that only use it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flexnn_ncnn.errors import UsageError

__all__ = ["Turns"]


class Turns:
    """A lock with a gate before it: a change waits for the use that goes on, and for no other.

    Left to a lock alone, a thread that computes in a loop would take it again before any other thread wakes up.
    """

    def __init__(self) -> None:
        self._gate, self._lock = threading.Lock(), threading.Lock()
        self._holder = 0
        self._waiting: set[threading.Event] = set()  # each is set when the wait is over

    @contextmanager
    def use(self) -> Iterator[None]:
        """Hold it for one use.

        Raises:
            UsageError: this thread holds it already, and would wait for itself.
        """
        self.refuse_holder()
        waited = threading.Event()
        self._waiting.add(waited)
        try:
            with self._gate:
                pass
            with self._lock, self._held():
                self._over(waited)
                yield
        finally:
            self._over(waited)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Hold it for a change; uses that are asked for meanwhile come after it.

        Raises:
            UsageError: as `use`.
        """
        self.refuse_holder()
        with self._gate, self._lock, self._held():
            yield

    def let_pass(self) -> None:
        """Wait until all who are waiting for a use now have it; for whoever makes many changes in a row."""
        for waited in tuple(self._waiting):
            waited.wait()

    def _over(self, waited: threading.Event) -> None:
        self._waiting.discard(waited)
        waited.set()

    def refuse_holder(self) -> None:
        """Prove that this thread does not hold it.

        Raises:
            UsageError: it does, and would wait for itself.
        """
        if self._holder == threading.get_ident():
            raise UsageError(
                "the session is in the middle of an inference of this very thread",
                hint="wait until it has ended; a budget can be set from here with wait=False",
            )

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = 0
