"""Plans and profiles as files: the same bytes after a round trip, and nothing believed that does not fit."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import PlanError, ProfileError
from flexnn_ncnn.records import formats
from flexnn_ncnn.records import plan as plan_records
from flexnn_ncnn.records import profile as profile_records
from flexnn_ncnn.records.formats import read_plan, read_profile, write_plan, write_profile
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.machine import Machine, this_machine
from flexnn_ncnn.records.options import KERNELS, RunOptions
from flexnn_ncnn.records.profile import ModelProfile, Points, RowWindow, SlabCost, StorageProfile
from param_tools.errors import FlexnnError, FormatVersionError
from tests.examples import examples
from tests.unit import plans, profiles

VERSIONS = {"flexnn-plan": plan_records.FORMAT_VERSION, "flexnn-profile": profile_records.FORMAT_VERSION}
DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats"
PLAN = plans.good_plan()
Json = dict[str, Any]


def good_profile() -> ModelProfile:
    slabs = SlabCost(4, 2, Points((2, 4), (1.5, 2.0)), Points((2, 4), (-1e-6, 0.0)))
    made = profiles.layer(
        "conv",
        "in",
        raw_bytes=64,
        units=64,
        granularity=16,
        blob_axis="c",
        window=RowWindow(3, 1, 4),
        kernels=(profiles.cost(kept_bytes=0.1, slabs=slabs, events=(64, 32, -32, -64)), profiles.cost("sgemm")),
    )
    machine = this_machine("1.0")
    return profiles.model(
        made,
        profiles.layer("relu", "conv", mode="inplace"),
        machine=machine.fingerprint,
        machine_facts=machine,
        read_seconds_per_byte=1 / 3,
        storage=StorageProfile(1e8, 1e-4, 1e9, 1e-6),
    )


PROFILE = good_profile()


@dataclasses.dataclass(frozen=True)
class Kind:
    """One of the two formats: how it is written and read, and the error of a damaged one."""

    name: str
    value: Any
    write: Callable[..., None]
    read: Callable[[Path], Any]
    error: type[FlexnnError]


KINDS = {
    "plan": Kind("flexnn-plan", PLAN, write_plan, read_plan, PlanError),
    "profile": Kind("flexnn-profile", PROFILE, write_profile, read_profile, ProfileError),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


def document_of(kind: Kind, path: Path) -> Json:
    kind.write(kind.value, path)
    document: Json = json.loads(path.read_text())
    return document


@each_kind
def test_a_round_trip_gives_the_same_record_and_the_same_bytes(kind: Kind, path: Path) -> None:
    kind.write(kind.value, path)
    before = path.read_bytes()
    found = kind.read(path)
    assert found == kind.value
    kind.write(found, path)
    assert path.read_bytes() == before


@each_kind
def test_what_was_written_is_read_item_by_item(kind: Kind, path: Path) -> None:
    kind.write(kind.value, path)
    assert formats._read_by_items(type(kind.value), kind.name, VERSIONS[kind.name], path) == kind.value


@settings(max_examples=examples(300))
@given(st.data())
def test_what_is_read_item_by_item_is_what_the_whole_document_says(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*KINDS.values()]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file.json")
        kind.write(kind.value, path)
        text = path.read_text()
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + data.draw(st.sampled_from([0, 1, 40, 4000])))))
        put = data.draw(
            st.sampled_from(["", ",", "[", "]", "{", "}", "}\n", "[]", " ", '"', "1", "1.5", "null", text[:end]])
        )
        path.write_text(text[:begin] + put + text[end:])
        quick = formats._read_by_items(type(kind.value), kind.name, VERSIONS[kind.name], path)
        with mock.patch.object(formats, "_read_by_items", return_value=None):
            try:
                whole = formats.read_record(type(kind.value), kind.name, VERSIONS[kind.name], path, kind.error)
            except FlexnnError:
                whole = None
        assert quick is None or quick == whole


@each_kind
def test_a_file_says_what_it_is(kind: Kind, path: Path) -> None:
    document = document_of(kind, path)
    assert (document["format"], document["version"]) == (kind.name, VERSIONS[kind.name])
    assert path.read_bytes().endswith(b"}\n")


@each_kind
def test_the_other_kind_is_refused(kind: Kind, path: Path) -> None:
    (other,) = (one for one in KINDS.values() if one is not kind)
    other.write(other.value, path)
    with pytest.raises(kind.error, match=f"not a {kind.name} file"):
        kind.read(path)


@each_kind
@pytest.mark.parametrize("version", [0, 999, "1", None, 1.5, True])
def test_another_version_is_named(kind: Kind, version: object, path: Path) -> None:
    path.write_text(json.dumps({**document_of(kind, path), "version": version}))
    with pytest.raises(
        FormatVersionError, match=re.escape(f"format version {version!r}, this release reads {VERSIONS[kind.name]}")
    ):
        kind.read(path)


@each_kind
def test_a_missing_file_is_named(kind: Kind, path: Path) -> None:
    with pytest.raises(kind.error, match=r"file\.json: cannot be read"):
        kind.read(path)


@each_kind
def test_a_truncated_file_is_refused(kind: Kind, path: Path) -> None:
    kind.write(kind.value, path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(kind.error, match="not JSON"):
            kind.read(path)


@each_kind
@pytest.mark.parametrize(
    "text",
    ["[]", "1", "null", '"flexnn-plan"', "[" * 100_000, '{"a":' * 100_000, "\ud800".encode("utf-8", "surrogatepass")],
    ids=["list", "number", "null", "text", "deep lists", "deep objects", "surrogate"],
)
def test_what_is_no_object_is_refused(kind: Kind, text: str | bytes, path: Path) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(kind.error):
        kind.read(path)


@each_kind
def test_a_file_larger_than_any_is_not_read(kind: Kind, path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(kind.error, match="larger than any"):
        kind.read(path)


def test_a_broken_plan_is_neither_written_nor_read(path: Path) -> None:
    broken = dataclasses.replace(PLAN, arena_bytes=64)
    with pytest.raises(PlanError, match="is in the arena"):
        write_plan(broken, path)
    assert not path.exists()
    path.write_text(json.dumps({**document_of(KINDS["plan"], path), "arena_bytes": 64}))
    with pytest.raises(PlanError, match=r"file\.json: .* is in the arena"):
        read_plan(path)


def places_in(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, as keys and indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(place for key, item in items for place in places_in(item, (*prefix, key)))][bool(not prefix) :]


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = changed(value[place[0]], place[1:], new)
    return copy


ODD = [None, True, -1, 0, 2**63, 10**400, 1.5, 1e308, float("nan"), float("inf"), "", "x", [], [1], {}, {"a": 1}]


@each_kind
@settings(max_examples=examples(150), deadline=None)
@given(data=st.data())
def test_whatever_is_changed_it_is_read_or_refused(
    kind: Kind, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("odd") / "file.json"
    document = document_of(kind, path)
    place = data.draw(st.sampled_from(places_in(document)))
    path.write_text(json.dumps(changed(document, place, data.draw(st.sampled_from(ODD)))))
    found, refusal = None, ""
    try:
        found = kind.read(path)
    except (kind.error, FormatVersionError) as error:
        refusal = str(error)
    if found is None:
        assert "file.json" in refusal
    else:
        kind.write(found, path)  # what is read can be written


@each_kind
def test_a_field_too_many_or_too_few_is_named(kind: Kind, path: Path) -> None:
    document = document_of(kind, path)
    path.write_text(json.dumps({**document, "colour": 1}))
    with pytest.raises(kind.error, match="colour"):
        kind.read(path)
    document.pop("model_id")
    path.write_text(json.dumps(document))
    with pytest.raises(kind.error, match="model_id"):
        kind.read(path)


def test_a_wrong_type_is_named_with_its_place(path: Path) -> None:
    document = document_of(KINDS["plan"], path)
    path.write_text(json.dumps(changed(document, ("steps", 0, "parts", 1, "pieces", 0, "count"), "many")))
    with pytest.raises(PlanError, match=re.escape("steps[0].parts[1].pieces[0].count is 'many', not int")):
        read_plan(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_profile_that_is_no_measurement_is_not_written(value: float, path: Path) -> None:
    with pytest.raises(ProfileError, match="odd read rate"):
        write_profile(dataclasses.replace(PROFILE, read_seconds_per_byte=value), path)
    assert list(path.parent.iterdir()) == []


RECORDS = {
    "plan.md": [*(getattr(plan_records, name) for name in plan_records.__all__), BlobLayout, RunOptions],
    "profile.md": [*(getattr(profile_records, name) for name in profile_records.__all__), Machine],
}


@pytest.mark.parametrize("page", RECORDS)
def test_the_page_names_every_field(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for record in filter(dataclasses.is_dataclass, RECORDS[page]):
        section = text.partition(f"## {record.__name__}\n")[2].partition("\n## ")[0]
        named = set(re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in section.splitlines() if "|" in row)))
        fields = {field.name for field in dataclasses.fields(record)}
        assert named == fields, f"{page}: {record.__name__}"


def test_the_page_names_every_mode_and_kernel() -> None:
    text = (DOCS / "plan.md").read_text(encoding="utf-8")
    assert [mode for mode in plan_records.MODES if f'`"{mode}"`' not in text] == []
    assert [kernel for kernel in KERNELS if f'`"{kernel}"`' not in text] == []


@pytest.mark.parametrize(
    ("page", "version"), [("plan.md", plan_records.FORMAT_VERSION), ("profile.md", profile_records.FORMAT_VERSION)]
)
def test_the_page_says_the_version(page: str, version: int) -> None:
    assert f'"version": {version}' in (DOCS / page).read_text(encoding="utf-8")
