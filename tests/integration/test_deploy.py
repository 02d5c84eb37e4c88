"""Files to a device and back: over a real sshd on loopback, and by an `adb` that is played by a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.bundles import Bundle, open_bundle
from flexnn_ncnn.bundles.manifest import FILES, MANIFEST
from flexnn_ncnn.errors import TransferError
from flexnn_ncnn.transfer import deploy_bundle, fetch, parse_place
from flexnn_ncnn.transfer.deploying import part_name
from tests.bundles import contents_of, write_bundle
from tests.integration.cli import ROOT, flexnn
from tests.integration.sshd import Sshd, missing_for_sshd, running_sshd

MB = 1_000_000
SIZE = 12 * MB
AWKWARD = 'it\'s a "folder"; $(touch evil) `touch evil` & * \\ ü -rf'
FAKE_ADB = """#!/bin/sh
[ "$1" = -s ] && [ "$2" = PHONE-1 ] || { echo "adb: device '$2' not found" >&2; exit 1; }
[ "$3 $4" = "shell -T" ] && [ $# = 5 ] || { echo "adb: not like that: $*" >&2; exit 1; }
exec sh -c "$5"
"""
# Ends itself as the power of a laptop does, when so many bytes are through.
INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from flexnn_ncnn.bundles import open_bundle
from flexnn_ncnn.transfer import deploy_bundle, fetch, parse_place

def progress(what, done, of):
    if what in ("deploying", "fetching") and done > 5_000_000:
        os.kill(os.getpid(), signal.SIGKILL)

what, source, target = sys.argv[1:]
if what == "deploy":
    deploy_bundle(open_bundle(source), parse_place(target), progress)
else:
    fetch(parse_place(source), Path(target), progress)
"""


@dataclass(frozen=True)
class Device:
    """A device that is this machine."""

    prefix: str

    def url(self, path: Path | str) -> str:
        return f"{self.prefix}{path}".replace("%", "%25").replace("?", "%3F").replace("#", "%23")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if missing_for_sshd():
        pytest.skip(missing_for_sshd())
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(params=["ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    if request.param == "ssh":
        server: Sshd = request.getfixturevalue("sshd")
        monkeypatch.setenv("PATH", str(server.programs), prepend=os.pathsep)
        return Device(server.url(Path("/")).rstrip("/"))
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "adb").write_text(FAKE_ADB)
    (programs / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return Device("adb://PHONE-1")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    write_bundle(tmp_path / "b", {"model.bin": os.urandom(SIZE)})
    return open_bundle(tmp_path / "b")


def run_interrupted(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == -9, done.stderr


def wait_until_settled(folder: Path) -> None:
    """What was on its way when the sender died still arrives."""
    sizes: list[int] = []
    while len(sizes) < 3 or sizes[-3] != sizes[-1] or sizes[-1] < 4 * MB:
        assert len(sizes) < 300
        time.sleep(0.1)
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))


def test_a_bundle_arrives_whole_and_only_changes_are_sent(bundle: Bundle, device: Device, tmp_path: Path) -> None:
    place = parse_place(device.url(tmp_path / "new" / "there"))
    seen: list[tuple[str, int, int]] = []
    report = deploy_bundle(bundle, place, lambda *step: seen.append(step))
    assert contents_of(tmp_path / "new" / "there") == contents_of(bundle.folder)
    assert set(report.sent_files) == {*FILES, MANIFEST}
    total = sum(map(len, contents_of(bundle.folder).values()))
    assert (report.sent_bytes, report.resumed_bytes, seen[-1]) == (total, 0, ("deploying", total, total))

    again = deploy_bundle(bundle, place)
    assert (again.sent_files, again.sent_bytes) == ((), 0)

    write_bundle(tmp_path / "c", {"model.bin": bundle.bin_path.read_bytes(), "plan.json": b"another"})
    third = deploy_bundle(open_bundle(tmp_path / "c"), place)
    assert third.sent_files == ("plan.json", MANIFEST)
    assert contents_of(tmp_path / "new" / "there") == contents_of(tmp_path / "c")


def test_a_deployment_that_was_killed_goes_on_and_the_old_bundle_stays_until_it_ends(
    bundle: Bundle, device: Device, tmp_path: Path
) -> None:
    place = parse_place(device.url(tmp_path / "there"))
    write_bundle(tmp_path / "old")
    deploy_bundle(open_bundle(tmp_path / "old"), place)
    run_interrupted("deploy", bundle.folder, place.url)
    wait_until_settled(tmp_path / "there")
    there = contents_of(tmp_path / "there")
    assert {name: there[name] for name in (*FILES, MANIFEST)} == contents_of(tmp_path / "old")
    assert open_bundle(tmp_path / "there").manifest.model == "m"

    report = deploy_bundle(bundle, place)
    total = sum(len(data) for name, data in contents_of(bundle.folder).items() if name in report.sent_files)
    assert report.resumed_bytes >= 3 * MB
    assert report.sent_bytes + report.resumed_bytes == total
    assert contents_of(tmp_path / "there") == contents_of(bundle.folder)


def test_a_connection_that_is_cut_is_one_sentence_and_nothing_is_lost(
    sshd: Sshd, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sshd.programs), prepend=os.pathsep)
    place = parse_place(sshd.url(tmp_path / "there"))
    cut: list[int] = []

    def progress(what: str, done: int, of: int) -> None:
        if what == "deploying" and done > 5 * MB and not cut:
            wait_until_settled(tmp_path / "there")
            sshd.cut_connections()
            cut.append(done)

    with pytest.raises(TransferError) as caught:
        deploy_bundle(bundle, place, progress)
    assert "goes on where" in caught.value.hint
    assert MANIFEST not in contents_of(tmp_path / "there")
    report = deploy_bundle(bundle, place, progress)
    assert cut
    assert report.resumed_bytes >= 3 * MB
    assert contents_of(tmp_path / "there") == contents_of(bundle.folder)


def test_a_part_that_is_damaged_is_found_and_sent_again(bundle: Bundle, device: Device, tmp_path: Path) -> None:
    place = parse_place(device.url(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    sha256 = next(file.sha256 for file in bundle.manifest.files if file.name == "model.bin")
    (tmp_path / "there" / part_name(sha256)).write_bytes(bytes(5 * MB))
    with pytest.raises(TransferError, match=r"model\.bin arrived damaged"):
        deploy_bundle(bundle, place)
    assert MANIFEST not in contents_of(tmp_path / "there")
    deploy_bundle(bundle, place)
    assert contents_of(tmp_path / "there") == contents_of(bundle.folder)


def test_no_name_means_anything_to_a_shell(bundle: Bundle, device: Device, tmp_path: Path) -> None:
    folder = tmp_path / AWKWARD
    report = deploy_bundle(bundle, parse_place(device.url(folder)))
    assert contents_of(folder) == contents_of(bundle.folder)
    back = fetch(parse_place(device.url(folder)), tmp_path / "back")
    assert contents_of(tmp_path / "back") == contents_of(bundle.folder)
    assert set(back.files) == set(report.files)
    assert list(tmp_path.rglob("evil")) == []
    assert not (Path.home() / "evil").exists()


def test_a_folder_is_fetched_and_only_changes_are_brought(device: Device, tmp_path: Path) -> None:
    source = tmp_path / "there"
    (source / "deep er").mkdir(parents=True)
    (source / "a b.npy").write_bytes(os.urandom(1000))
    (source / "deep er" / "$(x)").write_bytes(b"")
    (source / ".0123456789abcdef.part").write_bytes(b"somebody's")
    (source / "link").symlink_to("/etc/passwd")
    place = parse_place(device.url(source))
    report = fetch(place, tmp_path / "here")
    assert contents_of(tmp_path / "here") == {
        name: (source / name).read_bytes() for name in ("a b.npy", "deep er/$(x)")
    }
    assert report.fetched_bytes == 1000
    (source / "a b.npy").write_bytes(b"new")
    again = fetch(place, tmp_path / "here")
    assert (again.fetched_files, again.fetched_bytes) == (("a b.npy",), 3)
    assert (tmp_path / "here" / "a b.npy").read_bytes() == b"new"


def test_a_file_goes_into_a_folder_or_under_a_name(device: Device, tmp_path: Path) -> None:
    (tmp_path / "y.npy").write_bytes(b"values")
    (tmp_path / "folder").mkdir()
    place = parse_place(device.url(tmp_path / "y.npy"))
    assert fetch(place, tmp_path / "folder").path == tmp_path / "folder" / "y.npy"
    assert fetch(place, tmp_path / "z.npy").path == tmp_path / "z.npy"
    assert (tmp_path / "folder" / "y.npy").read_bytes() == (tmp_path / "z.npy").read_bytes() == b"values"


def test_a_fetch_that_was_killed_goes_on(device: Device, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(SIZE))
    place = parse_place(device.url(tmp_path / "big"))
    (tmp_path / "copy").write_bytes(b"old")
    run_interrupted("fetch", place.url, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"old"
    report = fetch(place, tmp_path / "copy")
    assert report.resumed_bytes >= 3 * MB
    assert report.fetched_bytes + report.resumed_bytes == SIZE
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "big").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_what_is_not_there_is_said(device: Device, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="no such file or folder"):
        fetch(parse_place(device.url(tmp_path / "nothing")), tmp_path / "x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TransferError, match="file"):
        deploy_bundle(bundle, parse_place(device.url(tmp_path / "file" / "below")))


def test_a_host_that_does_not_answer_is_one_sentence(
    sshd: Sshd, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sshd.programs), prepend=os.pathsep)
    with pytest.raises(TransferError, match=r"ssh 127\.0\.0\.1: .*refused") as caught:
        deploy_bundle(bundle, parse_place("ssh://127.0.0.1:1/x"))
    assert "goes on where" in caught.value.hint


def test_a_phone_that_is_not_there_is_one_sentence(device: Device, bundle: Bundle) -> None:
    if device.prefix.startswith("ssh"):
        pytest.skip("about adb")
    with pytest.raises(TransferError, match="device 'PHONE-2' not found"):
        deploy_bundle(bundle, parse_place("adb://PHONE-2/x"))


@pytest.mark.parametrize("scheme", ["ssh", "adb"])
def test_a_program_that_is_missing_is_named(
    scheme: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransferError, match=f"no program '{scheme}'"):
        deploy_bundle(bundle, parse_place(f"{scheme}://x/y"))


def test_one_connection_serves_a_whole_deployment(
    sshd: Sshd, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sshd.programs), prepend=os.pathsep)
    log = sshd.programs.parent / "log"
    before = log.read_text().count("Accepted publickey")
    deploy_bundle(bundle, parse_place(sshd.url(tmp_path / "there")))
    assert log.read_text().count("Accepted publickey") == before + 1


def test_a_bundle_runs_where_it_was_deployed(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(sshd.programs), prepend=os.pathsep)
    host, board = tmp_path / "host", tmp_path / "board"
    zoo.build("squeezenet11", host / "models")
    made = flexnn("bundle", "squeezenet11", "--budget", "60MB", "--for", "pi5", "-o", host / "b", cache=host)
    assert made.status == 0, made.err
    deployed = flexnn("deploy", host / "b", sshd.url(board / "b"), "--json", cache=host)
    assert deployed.status == 0, deployed.err
    assert json.loads(deployed.out)["sent_bytes"] > 4 * MB
    done = flexnn("run", board / "b", "-o", board / "y.npy", "--json", cache=board / "cache")
    assert done.status == 0, done.err
    fetched = flexnn("fetch", sshd.url(board / "y.npy"), tmp_path, cache=host)
    assert fetched.status == 0, fetched.err
    assert "in 1 of 1 files" in fetched.out
    assert (tmp_path / "y.npy").read_bytes() == (board / "y.npy").read_bytes()
