from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.zoo import builder
from flexnn_ncnn.zoo.hashing import HashingFile
from param_tools.errors import FlexnnError

SMALL = "squeezenet11"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    return zoo.build(SMALL, tmp_path)


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_build_writes_the_pair_the_manifest_promises(built: Path) -> None:
    known = zoo.entry(SMALL)
    param_path, bin_path = zoo.model_paths(SMALL, built.parent)
    assert built == bin_path
    assert hashlib.sha256(bin_path.read_bytes()).hexdigest() == known.bin_sha256
    assert hashlib.sha256(param_path.read_bytes()).hexdigest() == known.param_sha256
    assert file_names(built.parent) == {f"{SMALL}.param", f"{SMALL}.bin", f"{SMALL}.bin.sha256"}
    assert (built.parent / f"{SMALL}.bin.sha256").read_text() == f"{known.bin_sha256}  {SMALL}.bin\n"


def test_second_build_leaves_the_files_alone_unless_forced(built: Path) -> None:
    os.utime(built, ns=(1, 1))
    zoo.build(SMALL, built.parent)
    assert built.stat().st_mtime_ns == 1
    zoo.build(SMALL, built.parent, force=True)
    assert built.stat().st_mtime_ns != 1


@pytest.mark.parametrize("suffix", [".bin", ".param", ".bin.sha256"])
@pytest.mark.parametrize("damage", ["missing", "short", "other"])
def test_damaged_model_counts_as_not_built_and_is_repaired(built: Path, suffix: str, damage: str) -> None:
    victim = built.parent / f"{SMALL}{suffix}"
    good = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    elif damage == "short" or suffix == ".bin":
        victim.write_bytes(good[:-1])
    else:
        victim.write_bytes(good[:-2] + b"\xff\n")
    assert not zoo.is_built(SMALL, built.parent)
    zoo.build(SMALL, built.parent)
    assert zoo.is_built(SMALL, built.parent)
    assert victim.read_bytes() == good


def test_progress_reaches_the_whole_file(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    zoo.build(SMALL, tmp_path, progress=lambda *state: seen.append(state))
    assert {what for what, _, _ in seen} == {f"write {SMALL}"}
    done = [done_bytes for _, done_bytes, _ in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][2] == zoo.entry(SMALL).bin_bytes


def test_full_disk_is_one_sentence_and_leaves_the_old_model(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = built.read_bytes()

    def full(self: HashingFile, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashingFile, "write", full)
    with pytest.raises(FlexnnError, match=r"is full, squeezenet11 needs 4\.9 MB; .*--dir"):
        zoo.build(SMALL, built.parent, force=True)
    assert built.read_bytes() == before
    assert zoo.is_built(SMALL, built.parent)
    assert len(file_names(built.parent)) == 3


def test_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(what: str, done_bytes: int, total_bytes: int) -> None:
        if done_bytes > total_bytes // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.build(SMALL, tmp_path, progress=interrupt)
    assert file_names(tmp_path) == set()


def test_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlexnnError, match=r"squeezenet11 cannot be written to .*file.*--dir"):
        zoo.build(SMALL, tmp_path / "file")
    with pytest.raises(FlexnnError, match=r"cannot be written"):
        zoo.build(SMALL, tmp_path / "file" / "below")


def test_bytes_that_are_not_the_manifests_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(zoo.entry(SMALL), bin_sha256="0" * 64)
    monkeypatch.setattr(builder, "entry", lambda name: wrong)
    with pytest.raises(FlexnnError, match=r"the \.bin made for squeezenet11 has SHA-256 .*manifest says 0000"):
        zoo.build(SMALL, tmp_path)
    assert file_names(tmp_path) == set()


def test_exponents_of_another_graph_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(zoo.entry(SMALL), source=zoo.entry("vgg19").source)
    monkeypatch.setattr(builder, "entry", lambda name: wrong)
    with pytest.raises(FlexnnError, match="38 exponents for 52 weight arrays"):
        zoo.build(SMALL, tmp_path)


def test_statuses_say_what_is_built(built: Path) -> None:
    states = {one.name: one.built for one in zoo.statuses(built.parent)}
    assert states.pop(SMALL)
    assert not any(states.values())
