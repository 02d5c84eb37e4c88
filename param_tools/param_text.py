"""The .param text format: str or bytes <-> `Model`, lossless.

A .param is `7767517`, the number of layers and of blobs, and one line per layer: ``type name inputs outputs
blob... id=value...``. Untouched lines are written back as they were read; new floats as ``%.8e``, which
float32 survives. What is accepted follows the installed ncnn (`tests/integration/test_format_param.py`
asks it): the part before the parameters may span lines, the parameters end with their line, a comment can
only follow the last layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from types import MappingProxyType

from param_tools.check import check_model, check_names
from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue, Scalar

__all__ = ["MAGIC", "MAX_PARAM_ID", "MAX_TEXT_BYTES", "OLD_ARRAY_ID", "Value", "format_param", "parse_param"]

MAGIC = 7767517
MAX_PARAM_ID = 31
MAX_TEXT_BYTES = 255  # of a name, a string or a number
OLD_ARRAY_ID = -23300  # the old syntax writes an array of parameter id as -23300-id=n,...
_COUNT = re.compile(rb"\+?\d{1,9}\Z")
_PARAM = re.compile(rb"([+-]?\d{1,15})=(.+)\Z", re.DOTALL)
_INT = re.compile(rb"[+-]?\d+\Z")
_FLOAT = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_QUOTED_TOKEN = re.compile(rb'[+-]?\d+="[^"]*"|\S+')
_FLOAT32_OVERFLOW = float.fromhex("0x1.ffffffp127")  # the first double that rounds to infinity

Value = Scalar | tuple[int | float, ...]
_Known = dict[bytes, tuple[int, ParamValue]]


class _ProblemError(Exception):
    """What is wrong with a line; the caller knows which line."""


def parse_param(text: str | bytes, *, path: str | PathLike[str] | None = None) -> Model:
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
    header_lines, stated, first = _parse_header(lines, path)
    layers = list(_parse_layers(first, lines[header_lines:], header_lines, stated[0], path))
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


def _parse_header(lines: list[bytes], path: str | PathLike[str] | None) -> tuple[int, tuple[int, int], list[bytes]]:
    """Number of lines the header takes, the stated layer and blob counts, and tokens after it in its last line."""
    tokens: list[bytes] = []
    for number, line in enumerate(lines, 1):
        tokens.extend(line.split())
        if tokens and tokens[0].lstrip(b"+") != b"%d" % MAGIC:
            raise ModelFormatError(
                f"not an ncnn .param: it begins with {_show(tokens[0])}, not {MAGIC}", path=path, line=number
            )
        if len(tokens) >= 3:
            if not (_COUNT.match(tokens[1]) and _COUNT.match(tokens[2]) and int(tokens[1]) and int(tokens[2])):
                raise ModelFormatError(
                    f"not a number of layers and of blobs: {_show(tokens[1])} {_show(tokens[2])}",
                    path=path,
                    line=number,
                )
            return number, (int(tokens[1]), int(tokens[2])), tokens[3:]
    what = "the layer and blob counts are missing" if tokens else "not an ncnn .param: it is empty"
    raise ModelFormatError(what, path=path, line=max(1, len(lines)))


def _parse_layers(
    tokens: list[bytes], lines: list[bytes], lines_before: int, stated: int, path: str | PathLike[str] | None
) -> Iterator[Layer]:
    known: _Known = {}
    made = 0
    for number, line in enumerate(lines, lines_before + 1):
        parts = line.split()
        if not parts or (made == stated and not tokens and parts[0].startswith(b"#")):
            continue
        tokens.extend(parts)
        try:
            head = _head_length(tokens)
            if head > len(tokens):
                continue  # the head goes on in the next line
            params = tokens[head:]
            if params and b'"' in line:
                params = _QUOTED_TOKEN.findall(line.split(None, len(parts) - len(params))[-1])
            yield _make_layer(tokens[:head], params, known, number, line)
        except _ProblemError as problem:
            raise ModelFormatError(str(problem), path=path, line=number) from None
        made += 1
        tokens = []
    if tokens:
        raise ModelFormatError("the file ends inside a layer", path=path, line=lines_before + len(lines))


def _head_length(tokens: list[bytes]) -> int:
    """Number of tokens before the parameters, as far as the tokens tell."""
    if len(tokens) < 4:
        return 4
    for count in tokens[2:4]:
        if not _COUNT.match(count):
            raise _ProblemError(f"expected a number of blobs, found {_show(count)}")
    return 4 + int(tokens[2]) + int(tokens[3])


def _make_layer(head: list[bytes], params: list[bytes], known: _Known, number: int, line: bytes) -> Layer:
    if max(map(len, head)) > MAX_TEXT_BYTES:
        raise _ProblemError(f"a name of {max(map(len, head))} bytes, ncnn reads {MAX_TEXT_BYTES}")
    values: dict[int, ParamValue] = {}
    for token in params:
        found = known.get(token)
        if found is None:
            found = known[token] = _parse_token(token)
        if found[0] in values:
            raise _ProblemError(f"parameter {found[0]} is given twice")
        values[found[0]] = found[1]
    names = [_text(token) for token in head]
    outputs_begin = 4 + int(head[2])
    return Layer(
        type=names[0],
        name=names[1],
        inputs=tuple(names[4:outputs_begin]),
        outputs=tuple(names[outputs_begin:]),
        params=MappingProxyType(values),
        line=number,
        raw=_text(line),
    )


def _parse_token(token: bytes) -> tuple[int, ParamValue]:
    match = _PARAM.match(token)
    if match is None:
        raise _ProblemError(f"expected id=value, found {_show(token)}")
    param_id, body = int(match[1]), match[2]
    old_array = param_id <= OLD_ARRAY_ID
    if old_array:
        param_id = OLD_ARRAY_ID - param_id
    if not 0 <= param_id <= MAX_PARAM_ID:
        raise _ProblemError(f"the parameter id of {_show(token)} is not in 0..{MAX_PARAM_ID}")
    value = _parse_old_array(body, token) if old_array else _parse_value(body, token)
    return param_id, ParamValue(value, _text(token))


def _parse_old_array(body: bytes, token: bytes) -> Value:
    length, *elements = body.split(b",")
    if not _COUNT.match(length) or int(length) != len(elements):
        raise _ProblemError(f"array {_show(token)} has not the length it states")
    return tuple(map(_parse_number, elements))


def _parse_value(body: bytes, token: bytes) -> Value:
    if body[:1] == b'"' or body[:1].isalpha():
        return _parse_string(body, token)
    if b"," not in body:
        return _parse_number(body)
    elements = body.split(b",")
    values = tuple(map(_parse_number, elements if elements[-1] else elements[:-1]))
    if isinstance(values[0], float):
        return tuple(map(float, values))
    if any(isinstance(value, float) for value in values):
        raise _ProblemError(f"array {_show(token)} begins with an integer and goes on with a float")
    return values


def _parse_string(body: bytes, token: bytes) -> str:
    if len(body) > MAX_TEXT_BYTES:
        raise _ProblemError(f"a string of {len(body)} bytes, ncnn reads {MAX_TEXT_BYTES}")
    if body[:1] != b'"':
        return _text(body[:-1] if body.endswith(b'"') else body)
    if len(body) < 2 or not body.endswith(b'"'):
        raise _ProblemError(f"the string {_show(token)} has no closing quote")
    return _text(body[1:-1])


def _parse_number(token: bytes) -> int | float:
    if len(token) > MAX_TEXT_BYTES:
        raise _ProblemError(f"a number of {len(token)} digits")
    if _INT.match(token):
        value = int(token)
        if not -(2**31) <= value < 2**31:
            raise _ProblemError(f"{_show(token)} is not a 32-bit integer")
        return value
    if _FLOAT.match(token):
        number = float(token)
        if abs(number) >= _FLOAT32_OVERFLOW:
            raise _ProblemError(f"{_show(token)} is not a 32-bit float")
        return number
    raise _ProblemError(f"not a number: {_show(token)}")


def _text(token: bytes) -> str:
    return token.decode("utf-8", "surrogateescape")


def _show(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_param(model: Model) -> str:
    """Writes `model` as a .param; layers as they were read keep their line.

    Raises:
        ModelFormatError: a name or value that the format cannot hold.
    """
    lines = [str(MAGIC), f"{len(model.layers)} {len(model.producers)}", *map(_format_layer, model.layers)]
    return "\n".join(lines) + "\n"


def _format_layer(layer: Layer) -> str:
    counts = f"{len(layer.inputs)} {len(layer.outputs)}"
    params = (param.raw or _format_param(layer, param_id, param.value) for param_id, param in layer.params.items())
    line = " ".join((f"{layer.type:<24} {layer.name:<24} {counts}", *layer.inputs, *layer.outputs, *params))
    if layer.raw and layer.raw.split() == line.split():
        return layer.raw
    check_names(layer)
    return line


def _format_param(layer: Layer, param_id: int, value: Value) -> str:
    if isinstance(value, tuple):
        numbers = [_format_number(layer, param_id, number) for number in value]
        return f"{OLD_ARRAY_ID - param_id}={','.join([str(len(value)), *numbers])}"
    if isinstance(value, str):
        if '"' in value or "\n" in value or "\r" in value or len(value.encode("utf-8", "surrogateescape")) > 253:
            raise ModelFormatError(f"layer {layer.name!r}: parameter {param_id} cannot be written: {value[:40]!r}")
        return f'{param_id}="{value}"'
    return f"{param_id}={_format_number(layer, param_id, value)}"


def _format_number(layer: Layer, param_id: int, value: int | float) -> str:
    if isinstance(value, float):
        if not abs(value) < _FLOAT32_OVERFLOW:
            raise ModelFormatError(f"layer {layer.name!r}: parameter {param_id} is no 32-bit float: {value}")
        return f"{value:.8e}"
    if not -(2**31) <= value < 2**31:
        raise ModelFormatError(f"layer {layer.name!r}: parameter {param_id} is no 32-bit integer: {value}")
    return str(int(value))
