"""The .param text format: str or bytes <-> `Model`, lossless.

A .param is `7767517`, the number of layers and of blobs, and one line per layer: ``type name inputs outputs
blob... id=value...``. Untouched lines are written back as they were read; new floats as ``%.8e``, which
float32 survives. What is accepted follows the installed ncnn (`tests/integration/test_format_param.py`
asks it): the part before the parameters may span lines, the parameters end with their line, a comment can
only follow the last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from os import PathLike
from types import MappingProxyType

from param_tools.check import check_model, check_names
from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue
from param_tools.param_value import MAX_TEXT_BYTES, ParamTextError, decode, format_value, parse_token, show

__all__ = ["MAGIC", "format_param", "parse_param"]

MAGIC = 7767517
_SHAPE_HINTS, _FEATURE_MASK = 30, 31  # parameters every layer has
_COUNT = re.compile(rb"\+?\d{1,9}\Z")
_QUOTED_TOKEN = re.compile(rb'[+-]?\d+="[^"]*"(?!\S)|\S+')

_Path = str | PathLike[str] | None
_Known = dict[bytes, tuple[int, ParamValue]]


def parse_param(text: str | bytes, *, path: _Path = None) -> Model:
    """Reads a .param.

    Args:
        text: the file's content.
        path: named in errors.

    Raises:
        ModelFormatError: anything ncnn could not load or would misread, with path and line: a bad magic
            number or count, a malformed layer or parameter, a blob that is unknown, produced twice or part
            of a cycle.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if data[:4] == MAGIC.to_bytes(4, "little"):
        raise ModelFormatError("this is a binary .param", path=path, hint="read it with param_tools.param_binary")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ModelFormatError("a NUL byte, so this is no text file", path=path, line=line)
    lines = data.splitlines()
    header_lines, stated, rest = _parse_header(lines, path)
    numbered = chain([(header_lines, rest)], enumerate(lines[header_lines:], header_lines + 1))
    layers = list(_parse_layers(numbered, stated[0], path))
    model = Model(tuple(layers))
    check_model(model, path=path)
    actual = (len(layers), len(model.producers))
    if actual != stated:
        raise ModelFormatError(
            f"the file says {stated[0]} layers and {stated[1]} blobs but has {actual[0]} and {actual[1]}",
            path=path,
            line=header_lines,
            hint="the file is cut off or was edited: restore it, or correct this line",
        )
    return model


def _parse_header(lines: list[bytes], path: _Path) -> tuple[int, tuple[int, int], bytes]:
    """Number of lines the header takes, the stated layer and blob counts, and what follows in its last line."""
    tokens: list[bytes] = []
    for number, line in enumerate(lines, 1):
        missing = 3 - len(tokens)
        parts = line.split(None, missing)
        tokens.extend(parts[:missing])
        if tokens and tokens[0].lstrip(b"+") != b"%d" % MAGIC:
            raise ModelFormatError(
                f"not an ncnn .param: it begins with {show(tokens[0])}, not {MAGIC}", path=path, line=number
            )
        if len(tokens) == 3:
            counts = tokens[1:]
            if not all(_COUNT.match(count) and int(count) for count in counts):
                raise ModelFormatError(
                    f"not a number of layers and of blobs: {show(b' '.join(counts))}", path=path, line=number
                )
            return number, (int(counts[0]), int(counts[1])), b"".join(parts[missing:])
    what = "the layer and blob counts are missing" if tokens else "not an ncnn .param: it is empty"
    raise ModelFormatError(what, path=path, line=max(1, len(lines)))


def _parse_layers(numbered: Iterable[tuple[int, bytes]], stated: int, path: _Path) -> Iterator[Layer]:
    known: _Known = {}
    tokens: list[bytes] = []
    made = begin = number = 0
    for number, line in numbered:
        parts = line.split()
        if not parts or (made == stated and not tokens and parts[0].startswith(b"#")):
            continue
        begin = begin if tokens else number
        tokens.extend(parts)
        try:
            head = _head_length(tokens)
            if head > len(tokens):
                continue  # the head goes on in the next line
            params = tokens[head:]
            if params and b'"' in line:
                params = _QUOTED_TOKEN.findall(line.split(None, len(parts) - len(params))[-1])
            yield _make_layer(tokens[:head], params, known, number, line)
        except ParamTextError as problem:
            where = f", in the layer that begins in line {begin}" if begin != number else ""
            raise ModelFormatError(f"{problem}{where}", path=path, line=number) from None
        made += 1
        tokens = []
    if tokens:
        raise ModelFormatError("the file ends inside the layer that begins here", path=path, line=begin)


def _head_length(tokens: list[bytes]) -> int:
    """Number of tokens before the parameters, as far as the tokens tell."""
    if len(tokens) < 4:
        return 4
    for count in tokens[2:4]:
        if not _COUNT.match(count):
            raise ParamTextError(f"expected a number of blobs, found {show(count)}")
    return 4 + int(tokens[2]) + int(tokens[3])


def _make_layer(head: list[bytes], params: list[bytes], known: _Known, number: int, line: bytes) -> Layer:
    if max(map(len, head)) > MAX_TEXT_BYTES:
        raise ParamTextError(f"a name of {max(map(len, head))} bytes, ncnn reads {MAX_TEXT_BYTES}")
    values: dict[int, ParamValue] = {}
    for token in params:
        found = known.get(token)
        if found is None:
            found = known[token] = parse_token(token)
        if found[0] in values:
            raise ParamTextError(f"parameter {found[0]} is given twice")
        values[found[0]] = found[1]
    _check_common_params(values, outputs=int(head[3]))
    names = [decode(token) for token in head]
    outputs_begin = 4 + int(head[2])
    return Layer(
        type=names[0],
        name=names[1],
        inputs=tuple(names[4:outputs_begin]),
        outputs=tuple(names[outputs_begin:]),
        params=MappingProxyType(values),
        line=number,
        raw=decode(line),
    )


def _check_common_params(values: dict[int, ParamValue], *, outputs: int) -> None:
    """Checks what ncnn itself, not the layer, reads of the parameters."""
    if _FEATURE_MASK in values and not isinstance(values[_FEATURE_MASK].value, int):
        raise ParamTextError(f"parameter {_FEATURE_MASK}, the feature mask, is not an integer")
    if _SHAPE_HINTS not in values:
        return
    hints = values[_SHAPE_HINTS].value
    if not isinstance(hints, tuple) or any(isinstance(hint, float) for hint in hints):
        raise ParamTextError(f"parameter {_SHAPE_HINTS}, the shape hints, is not an array of integers")
    if hints and outputs:
        step, rest = divmod(len(hints), outputs)
        if rest or not all(_is_shape_hint(hints[begin : begin + step]) for begin in range(0, len(hints), step)):
            raise ParamTextError(f"parameter {_SHAPE_HINTS} holds no shape for each of {outputs} outputs")


def _is_shape_hint(hint: tuple[int | float, ...]) -> bool:
    """Whether this is (dims, w, h, c) or (dims, w, h, d, c), axes beyond dims being ignored."""
    if len(hint) not in (4, 5) or not 0 <= hint[0] < len(hint):
        return False
    used = {0: (), 1: hint[1:2], 2: hint[1:3], 3: (*hint[1:3], hint[-1]), 4: hint[1:]}[int(hint[0])]
    return all(extent >= 0 for extent in used)


def format_param(model: Model) -> str:
    """Writes `model` as a .param; layers as they were read keep their line.

    Raises:
        ModelFormatError: a name or value that the format cannot hold.
    """
    lines = [str(MAGIC), f"{len(model.layers)} {len(model.producers)}", *map(_format_layer, model.layers)]
    return "\n".join(lines) + "\n"


def _format_layer(layer: Layer) -> str:
    counts = f"{len(layer.inputs)} {len(layer.outputs)}"
    params = (param.raw or _format_param(layer, param_id) for param_id, param in layer.params.items())
    line = " ".join((f"{layer.type:<24} {layer.name:<24} {counts}", *layer.inputs, *layer.outputs, *params))
    if layer.raw and layer.raw.split() == line.split():
        return layer.raw
    check_names(layer)
    return line


def _format_param(layer: Layer, param_id: int) -> str:
    try:
        return format_value(param_id, layer.params[param_id].value)
    except ParamTextError as error:
        raise ModelFormatError(f"layer {layer.name!r}: a .param cannot hold {error} as parameter {param_id}") from error
