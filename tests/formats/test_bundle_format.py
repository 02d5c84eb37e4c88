"""Bundles in folders and files: what they are byte by byte, and those that were damaged or made to do harm."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexnn_ncnn.bundles import open_bundle
from flexnn_ncnn.bundles.archive import pack, unpack
from flexnn_ncnn.bundles.manifest import FILES, MANIFEST, FileEntry, Manifest, read_manifest
from flexnn_ncnn.errors import BundleError
from flexnn_ncnn.records.options import RunOptions
from param_tools.errors import FlexnnError, FormatVersionError
from tests.bundles import CONTENTS, contents_of, write_bundle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats" / "bundle.md"
HASH = "0" * 64


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "b")
    return tmp_path / "b"


def packed(folder: Path) -> bytes:
    file = io.BytesIO()
    pack(folder, file)
    return file.getvalue()


def opened(path: Path) -> Manifest:
    return open_bundle(path, folder=path.parent / "cache").manifest


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_a_folder_opens_and_says_what_it_is(bundle: Path) -> None:
    found = open_bundle(bundle, folder=bundle.parent / "cache")
    assert found.manifest == read_manifest(bundle / MANIFEST)
    assert [found.param_path.name, found.bin_path.name] == ["model.param", "model.bin"]
    assert found.manifest.size_bytes == sum(map(len, CONTENTS.values()))


def test_a_file_unpacks_to_the_same_once(bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    archive.write_bytes(packed(bundle))
    first = open_bundle(archive, folder=tmp_path / "cache")
    assert contents_of(first.folder) == contents_of(bundle)
    inode = (first.folder / "model.bin").stat().st_ino
    assert (open_bundle(archive, folder=tmp_path / "cache").folder / "model.bin").stat().st_ino == inode


def test_a_file_that_was_replaced_is_unpacked_again(bundle: Path, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    archive.write_bytes(packed(bundle))
    open_bundle(archive, folder=tmp_path / "cache")
    write_bundle(tmp_path / "other", {"model.bin": b"another"})
    archive.write_bytes(packed(tmp_path / "other"))
    assert (open_bundle(archive, folder=tmp_path / "cache").bin_path).read_bytes() == b"another"
    assert len([path for path in (tmp_path / "cache" / "bundles").iterdir() if path.is_dir()]) == 1


def test_the_file_is_a_plain_tar_and_always_the_same(bundle: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(bundle))) as archive:
        assert archive.getnames() == [MANIFEST, *FILES]
        assert {info.mtime for info in archive} == {0}
    assert packed(bundle) == packed(bundle)


def test_the_manifest_is_the_json_that_the_page_shows(bundle: Path) -> None:
    fields = json.loads((bundle / MANIFEST).read_text())
    page = PAGE.read_text(encoding="utf-8")
    assert {name for name in fields if f"`{name}`" not in page} == set()
    assert f'"version": {fields["version"]}' in page


def test_another_release_is_told_apart(bundle: Path) -> None:
    fields = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(fields | {"version": 9}))
    with pytest.raises(FormatVersionError, match="9"):
        opened(bundle)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes"),
        (lambda path: (path.rename(path.with_name("t")), path.symlink_to("t")), "no plain file"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no plain file"),
        (lambda path: (path.unlink(), path.mkdir()), "no plain file"),
    ],
)
def test_a_folder_with_a_damaged_file_is_refused(
    bundle: Path, name: str, damage: Callable[[Path], Any], complaint: str
) -> None:
    damage(bundle / name)
    with pytest.raises(BundleError, match=complaint) as caught:
        opened(bundle)
    assert name in caught.value.message


def test_a_changed_byte_is_found_even_after_the_file_was_found_whole(bundle: Path) -> None:
    opened(bundle)
    data = bytearray((bundle / "model.bin").read_bytes())
    data[7] ^= 1
    (bundle / "model.bin").write_bytes(data)
    os.utime(bundle / "model.bin", ns=(0, 0))
    with pytest.raises(BundleError, match=r"model\.bin is damaged: it has not the hash"):
        opened(bundle)


def test_what_was_found_whole_is_not_read_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(bundle)
    monkeypatch.setattr("flexnn_ncnn.bundles.opening.copy_hashed", None)
    opened(bundle)


@pytest.mark.parametrize(
    "change",
    [
        {"budget_bytes": 9_000_000},
        {"model": "another"},
        {"sha256": HASH},
        {"sha256": None},
        {"files": []},
    ],
)
def test_a_changed_manifest_is_refused(bundle: Path, change: dict[str, object]) -> None:
    fields = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(fields | change))
    with pytest.raises(BundleError):
        opened(bundle)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"files": tuple(FileEntry(name, 1, HASH) for name in ("../model.param", *FILES[1:]))}, "files are not"),
        ({"files": tuple(FileEntry(name, 1, HASH) for name in ("/etc/passwd", *FILES[1:]))}, "files are not"),
        ({"files": tuple(FileEntry(name, 1, HASH) for name in (*FILES, FILES[0]))}, "files are not"),
        ({"files": tuple(FileEntry("model.bin", 1, HASH) for _ in range(1000))}, "files are not"),
        ({"files": tuple(FileEntry(name, -1, HASH) for name in FILES)}, "no size or hash"),
        ({"files": tuple(FileEntry(name, 2**70, HASH) for name in FILES)}, "no size or hash"),
        ({"files": tuple(FileEntry(name, 1, "x" * 64) for name in FILES)}, "no size or hash"),
        ({"budget_bytes": 0}, "budget"),
        ({"options": RunOptions(num_threads=10**9)}, "threads"),
        ({"inputs": ()}, "inputs"),
    ],
)
def test_a_manifest_that_says_what_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    write_bundle(tmp_path / "b", **changes)
    with pytest.raises(BundleError, match=complaint):
        opened(tmp_path / "b")


def members_of(folder: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(name, (folder / name).read_bytes()) for name in (MANIFEST, *FILES)]


@pytest.mark.parametrize(
    "hostile",
    [
        lambda good: [],
        lambda good: good[1:],
        lambda good: good[:-1],
        lambda good: [*good, good[-1]],
        lambda good: [good[0], good[0], *good[1:]],
        lambda good: [good[0], *reversed(good[1:])],
        lambda good: [*good, member("../evil", b"x")],
        lambda good: [member("../evil", b"x"), *good],
        lambda good: [good[0], member("../../evil", b"x"), *good[2:]],
        lambda good: [good[0], member("/tmp/evil", b"x"), *good[2:]],
        lambda good: [good[0], member("../../evil", good[1][1]), *good[2:]],
        lambda good: [good[0], member("model.param", kind=tarfile.SYMTYPE, link="/etc/passwd"), *good[2:]],
        lambda good: [good[0], member("model.param", kind=tarfile.LNKTYPE, link="bundle.json"), *good[2:]],
        lambda good: [good[0], member("model.param", kind=tarfile.FIFOTYPE), *good[2:]],
        lambda good: [good[0], member("model.param", kind=tarfile.DIRTYPE), *good[2:]],
        lambda good: [good[0], member("model.param", b"x" * 30), *good[2:]],
        lambda good: [good[0], member("x" * 200, b"x"), *good[2:]],
        lambda good: [member(MANIFEST, b"{}" + b" " * 2_000_000), *good[1:]],
        lambda good: [member(MANIFEST, b"[" * 100_000), *good[1:]],
    ],
)
def test_a_file_with_other_members_is_refused_and_nothing_is_left(
    bundle: Path, tmp_path: Path, hostile: Callable[[list[Any]], list[Any]]
) -> None:
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    (folder / "b.tar").write_bytes(tar_of(*hostile(members_of(bundle))))
    with pytest.raises(BundleError):
        opened(folder / "b.tar")
    assert contents_of(folder / "cache") == {}
    assert {path.name for path in tmp_path.iterdir()} == {"b", "deep"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"down"}


def test_a_header_that_claims_an_absurd_size_is_refused_at_once(bundle: Path, tmp_path: Path) -> None:
    data = bytearray(packed(bundle))
    begin = data.rindex(b"model.bin")
    info = tarfile.TarInfo("model.bin")
    info.size = 2**60
    data[begin : begin + 512] = info.tobuf(format=tarfile.GNU_FORMAT)
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(BundleError, match="size"):
        opened(tmp_path / "b.tar")


@pytest.mark.parametrize("count", [0, 1, 511, 512, 700, 3000, 5000])
def test_a_file_cut_short_is_refused(bundle: Path, tmp_path: Path, count: int) -> None:
    (tmp_path / "b.tar").write_bytes(packed(bundle)[:count])
    with pytest.raises(FlexnnError):
        opened(tmp_path / "b.tar")
    assert contents_of(tmp_path / "cache") == {}


@pytest.mark.parametrize("what", ["pipe", "nothing"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, what: str) -> None:
    if what == "pipe":
        os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(FlexnnError):
        opened(tmp_path / "b.tar")


def test_unpacking_into_a_full_disk_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.tar").write_bytes(packed(bundle))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flexnn_ncnn.bundles.archive.copy_hashed", full)
    with pytest.raises(OSError, match="No space"):
        opened(tmp_path / "b.tar")
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []
    monkeypatch.undo()
    assert unpack(tmp_path / "b.tar", tmp_path / "cache").model == "m"
