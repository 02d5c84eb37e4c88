"""A real sshd on loopback, with keys and settings of its own, and an `ssh` that knows them."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sshd", "missing_for_sshd", "running_sshd"]

_PRIVILEGE_SEPARATION = Path("/run/sshd")
_CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
_CLIENT = """
Host *
IdentityFile {folder}/user
IdentitiesOnly yes
UserKnownHostsFile {folder}/known
StrictHostKeyChecking accept-new
BatchMode yes
LogLevel ERROR
"""


@dataclass(frozen=True)
class Sshd:
    """A running server.

    Attributes:
        port: where it listens.
        user: who may log in.
        programs: a folder with an `ssh` that uses the test's keys; put it first on PATH.
        pid: the server's process.
    """

    port: int
    user: str
    programs: Path
    pid: int

    def url(self, path: Path) -> str:
        """The place of a folder or file on the server, which is this machine."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    def cut_connections(self) -> None:
        """End the processes that serve a connection each, as a board that loses its network does."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with suppress(OSError):
                if f"\nPPid:\t{self.pid}\n" in status.read_text():
                    os.kill(int(status.parent.name), signal.SIGKILL)


def missing_for_sshd() -> str:
    """What this machine lacks, "" where it can run a server."""
    for name in ("sshd", "ssh", "ssh-keygen"):
        if _program(name) is None:
            return f"no program {name}; on Debian: apt-get install openssh-server"
    if os.getuid() == 0 and not _PRIVILEGE_SEPARATION.is_dir():
        return f"sshd of root needs the folder {_PRIVILEGE_SEPARATION}; make it with mkdir"
    return ""


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    """A server whose files are all in `folder`."""
    port = _free_port()
    for name in ("host", "user"):
        command = [str(_program("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True, timeout=120)
    (folder / "sshd_config").write_text(_CONFIG.format(port=port, folder=folder))
    (folder / "ssh_config").write_text(_CLIENT.format(folder=folder))
    programs = folder / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nexec {_program("ssh")} -F {folder}/ssh_config "$@"\n')
    (programs / "ssh").chmod(0o755)
    log = (folder / "log").open("wb")
    command = [str(_program("sshd")), "-D", "-e", "-f", str(folder / "sshd_config")]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait_for(port, server, folder / "log")
        yield Sshd(port, getpass.getuser(), programs, server.pid)
    finally:
        server.terminate()
        server.wait(timeout=120)
        log.close()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(2400):  # two minutes
        if server.poll() is not None:
            raise RuntimeError(f"sshd ended: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"sshd does not answer: {log.read_text()}")
