"""Parts of a network, by what is given and what is wanted."""

from __future__ import annotations

import pytest

from param_tools.check import check_model
from param_tools.errors import FlexnnError
from param_tools.excerpt import Excerpt, excerpt
from param_tools.graph import Layer, Model


def layer(kind: str, name: str, inputs: str, outputs: str) -> Layer:
    return Layer(kind, name, tuple(inputs.split()), tuple(outputs.split()))


# a -> s -> (x: b -> d), (y: c -> e g); e + other -> f; g -> h
MODEL = Model(
    (
        layer("Input", "in", "", "a"),
        layer("Input", "in2", "", "other"),
        layer("Split", "s", "a", "b c"),
        layer("ReLU", "x", "b", "d"),
        layer("Slice", "y", "c", "e g"),
        layer("BinaryOp", "j", "e other", "f"),
        layer("ReLU", "z", "g", "h"),
    )
)


def shown(part: Excerpt) -> list[str]:
    check_model(part.model)
    return [f"{one.type} {' '.join(one.inputs)}->{' '.join(one.outputs)}" for one in part.model.layers]


def test_everything_is_an_excerpt_too() -> None:
    part = excerpt(MODEL)
    assert part.model.layers == MODEL.layers
    assert part.indices == tuple(range(7))


@pytest.mark.parametrize(
    ("feeds", "outputs", "expected", "indices"),
    [
        (None, ["d"], ["Input ->a", "Split a->b", "ReLU b->d"], (0, 2, 3)),
        (None, ["e"], ["Input ->a", "Split a->c", "Slice c->e g"], (0, 2, 4)),
        (None, ["b", "d"], ["Input ->a", "Split a->b", "ReLU b->d"], (0, 2, 3)),
        (["a"], None, ["Input ->a", "Split a->b c", "ReLU b->d", "Slice c->e g", "ReLU g->h"], (0, 2, 3, 4, 6)),
        (["c"], None, ["Input ->c", "Slice c->e g", "ReLU g->h"], (-1, 4, 6)),
        (["e", "other"], ["f"], ["Input ->e", "Input ->other", "BinaryOp e other->f"], (-1, 1, 5)),
        (["a", "g"], ["e"], ["Input ->a", "Split a->c", "Slice c->e g"], (0, 2, 4)),
        (
            ["a", "g"],
            ["e", "h"],
            ["Input ->g", "Input ->a", "Split a->c", "Slice c->e g (not used)", "ReLU g->h"],
            (-1, 0, 2, 4, 6),
        ),
        (["a", "b"], ["d"], ["Input ->b", "ReLU b->d"], (-1, 3)),
        (["other"], None, ["Input ->other"], (1,)),
        ([], None, [], ()),
    ],
)
def test_the_layers_between_what_is_given_and_what_is_wanted(
    feeds: list[str] | None, outputs: list[str] | None, expected: list[str], indices: tuple[int, ...]
) -> None:
    part = excerpt(MODEL, feeds=feeds, outputs=outputs)
    assert shown(part) == expected
    assert part.indices == indices


def test_layers_keep_all_else_they_say() -> None:
    known = Model((layer("Input", "in", "", "a"), layer("ReLU", "r", "a", "b").with_params({0: 0.1})))
    (_, relu) = excerpt(known, outputs=["b"]).model.layers
    assert relu is known.layers[1]


@pytest.mark.parametrize(
    ("feeds", "outputs", "words"),
    [
        (["nosuch"], None, "no blob 'nosuch'"),
        (None, ["nosuch"], "no blob 'nosuch'"),
        (["a"], ["f"], "blob 'f' cannot be computed from a; the network reads a, other"),
        ([], ["d"], "blob 'd' cannot be computed from nothing"),
    ],
)
def test_what_cannot_be(feeds: list[str] | None, outputs: list[str] | None, words: str) -> None:
    with pytest.raises(FlexnnError, match=words):
        excerpt(MODEL, feeds=feeds, outputs=outputs)
