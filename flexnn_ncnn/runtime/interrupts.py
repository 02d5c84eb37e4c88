"""Ctrl-C between two steps of an inference, never within one.

While a layer computes, ncnn calls allocators written in Python, from kernels and destructors in which no C++ code
expects an exception: what a signal handler raises there would end the process.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["deferred_signals"]

# Signals whose handlers, if written in Python, are known to raise; SIGINT comes last as most handlers do.
_NAMES = ("SIGALRM", "SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


@contextmanager
def deferred_signals() -> Iterator[Callable[[], None]]:
    """Within the block, signal handlers written in Python run when the function that it gives is called.

    What is left runs at the block's end. Other threads than the main one are never interrupted.
    """
    if threading.current_thread() is not threading.main_thread():
        yield _nothing
        return
    arrived: list[tuple[int, FrameType | None]] = []
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append((number, frame))

    def run_handlers() -> None:
        while arrived:
            number, frame = arrived.pop(0)
            handlers[number](number, frame)

    try:
        for number in handlers:
            signal.signal(number, note)
        yield run_handlers
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        run_handlers()


def _nothing() -> None:
    pass
