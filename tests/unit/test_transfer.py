"""Places, and devices that answer what they should not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexnn_ncnn.errors import TransferError, UsageError
from flexnn_ncnn.transfer import fetch, parse_place
from flexnn_ncnn.transfer.places import Place

HASH = "a" * 64


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ssh://pi@board:2222/home/pi/x", Place("", "ssh", "board", "pi", 2222, "/home/pi/x")),
        ("ssh://board/~/x y", Place("", "ssh", "board", "", 0, "./x y")),
        ("ssh://board/~", Place("", "ssh", "board", "", 0, "./")),
        ("ssh://[::1]:22/x", Place("", "ssh", "::1", "", 22, "/x")),
        ("ssh://board/a%20b%27", Place("", "ssh", "board", "", 0, "/a b'")),
        ("adb://R58M123/data/local/tmp", Place("", "adb", "R58M123", "", 0, "/data/local/tmp")),
        ("adb://192.168.0.5:5555/sdcard/x", Place("", "adb", "192.168.0.5:5555", "", 0, "/sdcard/x")),
        ("adb:///sdcard/x", Place("", "adb", "", "", 0, "/sdcard/x")),
    ],
)
def test_places_are_read(url: str, place: Place) -> None:
    found = parse_place(url)
    assert (found.scheme, found.host, found.user, found.port, found.path) == (
        place.scheme,
        place.host,
        place.user,
        place.port,
        place.path,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pi@board:/x",
        "/x",
        "scp://board/x",
        "file:///x",
        "ssh://board",
        "ssh://board/",
        "ssh:///x",
        "ssh://-oProxyCommand=touch%20evil/x",
        "ssh://-oProxyCommand=evil/x",
        "ssh://-l@board/x",
        "ssh://@board/x",
        "ssh://a b@board/x",
        "ssh://pi:secret@board/x",
        "ssh://board:99999/x",
        "ssh://board:http/x",
        "ssh://board/x?y",
        "ssh://board/x#y",
        "ssh://board/x\ny",
        "ssh://board/x%0Ay",
        "ssh://board/x%00y",
        "ssh://bo ard/x",
        "ssh://bo;ard/x",
        "ssh://bo$(x)ard/x",
        "adb://-s/x",
        "adb://a b/x",
        "adb://x",
        "adb://pho;ne/x",
    ],
)
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        parse_place(url)


def answering(folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A device that answers to whatever it is asked."""
    (folder / "answer").write_text(answer)
    (folder / "adb").write_text(f'#!/bin/sh\ncat "{folder}/answer"\n')
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return parse_place("adb://phone/folder")


@pytest.mark.parametrize(
    "answer",
    [
        f"4 {HASH} ../evil\n",
        f"4 {HASH} ./../evil\n",
        f"4 {HASH} ./a/../../evil\n",
        f"4 {HASH} /tmp/evil\n",
        f"4 {HASH} .//tmp/evil\n",
        f"4 {HASH} ./\n",
        f"4 {HASH} .\n",
        f"4 {HASH} ./a\\b\n",
        f"4 {HASH} ./a\x1b[31mb\n",
        f"-4 {HASH} ./a\n",
        f"{'9' * 30} {HASH} ./a\n",
        "4 hash ./a\n",
        "garbage\n",
        "file\n",
        f"file\n4 {HASH} a\n4 {HASH} b\n",
        "none\n",
        f"4 {HASH} ./a\n" * 10_001,
    ],
)
def test_a_device_cannot_write_where_it_likes(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "device").mkdir()
    place = answering(tmp_path / "device", answer, monkeypatch)
    with pytest.raises(TransferError):
        fetch(place, tmp_path / "here" / "target")
    assert list((tmp_path / "here").rglob("*")) == []


def test_a_device_that_sends_more_than_it_said_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device").mkdir()
    place = answering(tmp_path / "device", f"4 {HASH} ./a\n", monkeypatch)
    with pytest.raises(TransferError, match="grew"):
        fetch(place, tmp_path / "target")
    assert not (tmp_path / "target" / "a").exists()


def test_a_device_that_sends_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "device").mkdir()
    line = f"{{}} {HASH} ./a\n"
    place = answering(tmp_path / "device", line.format(len(line)), monkeypatch)
    with pytest.raises(TransferError, match="damaged"):
        fetch(place, tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []
