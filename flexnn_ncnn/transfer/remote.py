"""Small POSIX scripts run on a device by the system's own ssh or adb.

No local shell sees an argument: programs are started with lists. The shell on the other side gets one quoted command,
`sh -c SCRIPT flexnn ARGUMENT...`, in which nothing but the constants below is code.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from flexnn_ncnn.errors import TransferError
from flexnn_ncnn.transfer.places import Place

__all__ = ["BLOCK_BYTES", "Remote", "Report"]

Report = Callable[[int], None]

BLOCK_BYTES = 64 * 1024
"""Transfers are taken up again at multiples of this."""

_PIECE_BYTES = 256 * 1024
_MOST_ANSWER_BYTES = 16 * 1024 * 1024
_SSH_FAILED = 255
_DD_STATISTICS = re.compile(r"^[0-9]+(\+[0-9]+ records| bytes)")
_IN_FOLDER = 'cd "$1" || exit 1; shift; '
_EACH = 'for f; do [ -f "$f" ] || continue; '
_SIZES = f'mkdir -p "$1" && {_IN_FOLDER}{_EACH}' + """s=$(wc -c < "$f") || exit 1; printf '%s %s\\n' $s "$f"; done"""
_HASHES = _IN_FOLDER + _EACH + """h=$(sha256sum < "$f") || exit 1; printf '%s %s\\n' "${h%% *}" "$f"; done"""
_PUT = f'{_IN_FOLDER}dd of="$1" bs={BLOCK_BYTES} seek="$2" conv=notrunc,fsync'
_GET = f'dd if="$1" bs={BLOCK_BYTES} skip="$2"'
_MOVE = f'{_IN_FOLDER}while [ $# -gt 1 ]; do mv -f "$1" "$2" || exit 1; shift 2; done; rm -f .????????????????.part'
_REMOVE = _IN_FOLDER + 'rm -f "$@"'
_DESCRIBE = """s=$(wc -c < "$f") && h=$(sha256sum < "$f") || exit 1; printf "%s %s %s\\n" $s "${h%% *}" "$f";"""
_LIST = (
    'if [ -d "$1" ]; then cd "$1" || exit 1; set -- .; '
    'elif [ -f "$1" ]; then echo file; else echo none; exit 0; fi; '
    f"find \"$1\" -type f -exec sh -c 'for f; do {_DESCRIBE} done' sh {{}} +"
)


class Remote:
    """A device; a context manager, within which one connection of ssh is used again and again.

    Args:
        place: where it is.

    Raises:
        TransferError: there is no such program here.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        if shutil.which(place.scheme) is None:
            raise TransferError(f"there is no program {place.scheme!r} here", hint=f"install {place.scheme}")
        self._sockets = tempfile.mkdtemp(prefix="flexnn-") if place.scheme == "ssh" else ""

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes of those files that are there; the folder is made where it is missing."""
        lines = self._ask(_SIZES, self._place.path, *names).splitlines()
        return {name: int(size) for size, _, name in (line.partition(" ") for line in lines) if size.isdecimal()}

    def hashes(self, names: Sequence[str]) -> dict[str, str]:
        """SHA-256 of those files that are there."""
        lines = self._ask(_HASHES, self._place.path, *names).splitlines() if names else []
        return {name: sha256 for sha256, _, name in (line.partition(" ") for line in lines)}

    def listing(self) -> str:
        """What is at the place: see `flexnn_ncnn.transfer.fetching`."""
        return self._ask(_LIST, self._place.path)

    def move(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Give files their final names, in this order."""
        self._ask(_MOVE, self._place.path, *(name for pair in pairs for name in pair))

    def remove(self, names: Sequence[str]) -> None:
        """Remove files, where they are there."""
        self._ask(_REMOVE, self._place.path, *names)

    def put(self, source: IO[bytes], name: str, block: int, report: Report) -> None:
        """Write to a file on the device, from `block` on, what is left of `source`."""
        with tempfile.TemporaryFile() as errors:
            process = self._start(_PUT, (self._place.path, name, str(block)), errors, stdin=subprocess.PIPE)
            assert process.stdin is not None
            try:
                with suppress(BrokenPipeError):  # it ended early and has said why
                    while piece := source.read(_PIECE_BYTES):
                        process.stdin.write(piece)
                        report(len(piece))
                with suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()
            except BaseException:
                _end(process)
                raise
            self._check(process.returncode, errors)

    def get(self, path: str, block: int, target: IO[bytes], most_bytes: int, report: Report) -> None:
        """Append a file on the device, from `block` on, to `target`; more than `most_bytes` are an error."""
        with tempfile.TemporaryFile() as errors:
            process = self._start(_GET, (path, str(block)), errors, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                left = most_bytes
                while piece := process.stdout.read1(min(_PIECE_BYTES, left + 1)):  # type: ignore[attr-defined]
                    left -= len(piece)
                    if left < 0:
                        raise TransferError(f"{path} grew while it was read", hint="try again")
                    target.write(piece)
                    report(len(piece))
                process.stdout.close()
                process.wait()
            except BaseException:
                _end(process)
                raise
            self._check(process.returncode, errors)

    def close(self) -> None:
        """Let go of the connection."""
        if self._sockets:
            with suppress(OSError, subprocess.TimeoutExpired):
                if os.listdir(self._sockets):
                    command = [*self._ssh(), "-O", "exit", "--", self._destination()]
                    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = ""

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(self, script: str, *arguments: str) -> str:
        """What a script prints."""
        with tempfile.TemporaryFile() as errors:
            process = self._start(script, arguments, errors, stdout=subprocess.PIPE)
            assert process.stdout is not None
            try:
                answer = process.stdout.read(_MOST_ANSWER_BYTES + 1)
                if len(answer) > _MOST_ANSWER_BYTES:
                    raise TransferError(f"{self._place.url} lists more files than can be handled")
                process.wait()
            except BaseException:
                _end(process)
                raise
            finally:
                process.stdout.close()
            self._check(process.returncode, errors)
            return answer.decode("utf-8", errors="surrogateescape")

    def _start(
        self,
        script: str,
        arguments: Sequence[str],
        errors: IO[bytes],
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        command = shlex.join(["sh", "-c", script, "flexnn", *arguments])
        if self._place.scheme == "ssh":
            argv = [*self._ssh(), "-T", "--", self._destination(), command]
        else:
            argv = ["adb", *(["-s", self._place.host] if self._place.host else []), "shell", "-T", command]
        # Not a pipe for stderr: ssh's shared connection would keep it open.
        return subprocess.Popen([os.fsencode(word) for word in argv], stdin=stdin, stdout=stdout, stderr=errors)

    def _ssh(self) -> list[str]:
        sharing = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
        sharing += ["-o", f"ControlPath={Path(self._sockets) / 'c'}", "-o", "ServerAliveInterval=15"]
        return ["ssh", *sharing, *(["-p", str(self._place.port)] if self._place.port else [])]

    def _destination(self) -> str:
        return f"{self._place.user}@{self._place.host}" if self._place.user else self._place.host

    def _check(self, status: int, errors: IO[bytes]) -> None:
        """Raises what a program that failed has said last."""
        if status == 0:
            return
        errors.seek(0)
        lines = errors.read(_MOST_ANSWER_BYTES).decode("utf-8", errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip() and not _DD_STATISTICS.match(line)]
        words = said[-1] if said else f"exit status {status}"
        lost = self._place.scheme == "ssh" and status == _SSH_FAILED
        hint = "the same command goes on where this one stopped" if lost else ""
        raise TransferError(f"{self._place.scheme} {self._place.host}: {words}", hint=hint)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
