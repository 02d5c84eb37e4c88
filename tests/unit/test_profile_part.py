"""Profiles narrowed to some outputs."""

from __future__ import annotations

import pytest

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.planning.problem import blob_problem
from flexnn_ncnn.preparing.profile_part import profile_towards
from tests.unit.profiles import layer, model, split

# in -> a -> (left -> b -> c), (right -> d); other -> e
WHOLE = model(
    layer("a", "in"),
    split("a", "left right"),
    layer("b", "left"),
    layer("c", "b"),
    layer("d", "right"),
    layer("e", "other"),
    inputs="in other",
)


def names(*outputs: str) -> list[str]:
    return [one.name for one in profile_towards(WHOLE, outputs).layers]


def test_no_outputs_are_the_networks_own() -> None:
    assert profile_towards(WHOLE, ()) is WHOLE


def test_layers_that_nothing_needs_are_left_out() -> None:
    assert names("c") == ["a", "split_a", "b", "c"]
    assert names("a") == ["a"]
    assert names("e") == ["e"]
    assert names("e", "d") == ["a", "split_a", "d", "e"]


def test_inputs_and_outputs_are_those_of_the_part_in_the_networks_order() -> None:
    part = profile_towards(WHOLE, ("d", "b"))
    assert [blob for blob, _ in part.inputs] == ["in"]
    assert part.outputs == ("b", "d")


def test_a_split_makes_what_is_read() -> None:
    (found,) = (one for one in profile_towards(WHOLE, ("c",)).layers if one.type == "Split")
    assert (found.outputs, len(found.output_layouts)) == (("left",), 1)


def test_a_blob_that_others_read_lives_to_the_end_when_it_is_wanted() -> None:
    def end_of_b(*outputs: str) -> int:
        return {one.blob: one.end for one in blob_problem(profile_towards(WHOLE, outputs)).buffers}["b"]

    assert end_of_b("b", "c", "d") == 5
    assert end_of_b("c", "d") == 4  # its last reader is the fourth layer


def test_a_blob_that_no_layer_makes() -> None:
    with pytest.raises(ProfileError, match="no layer that makes blob 'in'"):
        profile_towards(WHOLE, ("in",))
