"""Bundles with any byte changed, cut anywhere: found out, or the same bundle all the same."""

from __future__ import annotations

import io
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.bundles.archive import pack, unpack
from flexnn_ncnn.bundles.manifest import MANIFEST, read_manifest
from param_tools.errors import FlexnnError
from tests.bundles import contents_of, write_bundle
from tests.examples import examples


def _packed() -> tuple[bytes, dict[str, bytes]]:
    with TemporaryDirectory() as folder:
        write_bundle(Path(folder))
        file = io.BytesIO()
        pack(Path(folder), file)
        return file.getvalue(), contents_of(Path(folder))


GOOD, CONTENTS = _packed()


def refused_or_the_same(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        archive, target = Path(folder) / "b.tar", Path(folder) / "out"
        target.mkdir()
        archive.write_bytes(data)
        try:
            unpack(archive, target)
        except FlexnnError:
            assert {path.name for path in Path(folder).iterdir()} == {"b.tar", "out"}
            return
        found = contents_of(target)
        # Between the words of JSON a byte may be another one: the manifest says the same.
        said, meant = (found.pop(MANIFEST), CONTENTS[MANIFEST])
        assert found == {name: value for name, value in CONTENTS.items() if name != MANIFEST}
        if said != meant:
            (target / "meant.json").write_bytes(meant)
            assert read_manifest(target / MANIFEST) == read_manifest(target / "meant.json")


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=examples(150))
def test_any_byte_changed(position: int, change: int) -> None:
    data = bytearray(GOOD)
    data[position] ^= change
    refused_or_the_same(bytes(data))


@given(st.integers(0, len(GOOD)))
@settings(deadline=None, max_examples=examples(40))
def test_cut_anywhere(count: int) -> None:
    refused_or_the_same(GOOD[:count])


@given(st.integers(0, 20), st.binary(max_size=600))
@settings(deadline=None, max_examples=examples(60))
def test_any_block_replaced(block: int, data: bytes) -> None:
    refused_or_the_same(GOOD[: block * 512] + data + GOOD[block * 512 + len(data) :])


@given(st.binary(max_size=2000))
@settings(deadline=None, max_examples=examples(40))
def test_bytes_of_any_kind(data: bytes) -> None:
    refused_or_the_same(data)
