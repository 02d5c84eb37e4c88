from __future__ import annotations

import pytest

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Lifetime, Model, ParamValue


def layer(name: str, inputs: str, outputs: str, kind: str = "Noop", **params: object) -> Layer:
    values = {int(key[1:]): ParamValue(value) for key, value in params.items()}  # type: ignore[arg-type]
    return Layer(kind, name, tuple(inputs.split()), tuple(outputs.split()), values)


DIAMOND = Model(
    (
        layer("in", "", "a", "Input"),
        layer("s", "a", "b c", "Split"),
        layer("x", "b", "d"),
        layer("y", "c", "e"),
        layer("j", "d e", "f"),
    )
)


def test_producers_and_consumers() -> None:
    assert DIAMOND.producers == {"a": 0, "b": 1, "c": 1, "d": 2, "e": 3, "f": 4}
    assert DIAMOND.consumers == {"a": (1,), "b": (2,), "c": (3,), "d": (4,), "e": (4,), "f": ()}
    assert DIAMOND.input_blobs == ("a",)
    assert DIAMOND.output_blobs == ("f",)


def test_valid_file_order_is_kept() -> None:
    assert DIAMOND.topological_order() == (0, 1, 2, 3, 4)
    assert DIAMOND.find_cycle() == ()


def test_order_puts_producers_first_and_the_rest_as_in_the_file() -> None:
    shuffled = Model(tuple(DIAMOND.layers[i] for i in (4, 3, 1, 2, 0)))
    assert [shuffled.layers[i].name for i in shuffled.topological_order()] == ["in", "s", "y", "x", "j"]


def test_unknown_blobs_do_not_stand_in_the_way() -> None:
    assert Model((layer("x", "nowhere", "a"), layer("y", "a", "b"))).topological_order() == (0, 1)


def test_cycle_is_named_in_the_direction_of_the_data() -> None:
    model = Model((layer("in", "", "a"), layer("x", "a c", "b"), layer("y", "b missing", "c"), layer("z", "c", "d")))
    assert model.find_cycle() in {("b", "c", "b"), ("c", "b", "c")}
    with pytest.raises(ModelFormatError, match=r"'(b' -> 'c' -> 'b|c' -> 'b' -> 'c)' form a cycle"):
        model.topological_order()


def test_cycle_behind_others_is_found_and_only_its_own_blobs_are_named() -> None:
    model = Model((layer("x", "b", "c"), layer("y", "b", "b")))
    assert model.find_cycle() == ("b", "b")


def test_huge_cycle_gives_a_short_message() -> None:
    size = 20_000  # far deeper than Python recurses
    model = Model(tuple(layer(f"l{i}", f"b{i}", f"b{(i + 1) % size}") for i in range(size)))
    assert len(model.find_cycle()) == size + 1
    with pytest.raises(ModelFormatError) as caught:
        model.topological_order()
    assert len(str(caught.value)) < 500
    assert "more) ->" in str(caught.value)


def test_deep_chain_backwards_is_sorted() -> None:
    size = 100_000
    model = Model(tuple(layer(f"l{i}", f"b{i + 1}", f"b{i}") for i in range(size)))
    assert model.topological_order() == tuple(range(size - 1, -1, -1))


def test_lifetimes_end_after_the_last_reader_and_outputs_live_on() -> None:
    assert DIAMOND.lifetimes == {
        "a": Lifetime(0, 2),
        "b": Lifetime(1, 3),
        "c": Lifetime(1, 4),
        "d": Lifetime(2, 5),
        "e": Lifetime(3, 5),
        "f": Lifetime(4, 5),
    }


def test_int_param() -> None:
    made = layer("l", "", "", p0=7, p1=1.0, p2=(1, 2), p3="text")
    assert made.int_param(0) == 7
    assert made.int_param(9, 4) == 4
    for param_id, shown in ((1, "1.0"), (2, r"\(1, 2\)"), (3, "'text'")):
        with pytest.raises(ModelFormatError, match=shown):
            made.int_param(param_id)


def test_float_param_takes_integers_as_ncnn_does() -> None:
    made = layer("l", "", "", p0=7, p1=0.5, p2=(1.0,))
    assert (made.float_param(0), made.float_param(1), made.float_param(9, 2.5)) == (7.0, 0.5, 2.5)
    with pytest.raises(ModelFormatError, match="should be a number"):
        made.float_param(2)


def test_array_param_refuses_the_scalar_that_ncnn_takes_for_nothing() -> None:
    made = layer("l", "", "", p0=(1, 2), p1=3)
    assert made.array_param(0) == (1, 2)
    assert made.array_param(9, (5,)) == (5,)
    with pytest.raises(ModelFormatError, match=r"should be an array.*write 1=3,"):
        made.array_param(1)


def test_with_params_replaces_adds_and_removes_in_id_order() -> None:
    made = layer("l", "", "", p5=1, p0=2).with_params({3: 4, 0: None})
    assert list(made.params) == [3, 5]
    assert made.params[3] == ParamValue(4)


def test_a_model_is_a_networkx_graph_with_blobs_as_edges():
    graph = DIAMOND.digraph()
    assert list(graph) == list(range(len(DIAMOND.layers)))
    assert {(one, other, blob) for one, other, blob in graph.edges(keys=True)} == {
        (DIAMOND.producers[blob], reader, blob) for blob, readers in DIAMOND.consumers.items() for reader in readers
    }
    assert graph.nodes[0]["type"] == DIAMOND.layers[0].type
