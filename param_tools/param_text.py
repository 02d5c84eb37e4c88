"""The .param text format: str or bytes <-> `Model`, lossless.

A .param is `7767517`, the number of layers and of blobs, and one line per layer: ``type name inputs outputs
blob... id=value...``. Untouched lines are written back as they were read; new floats as ``%.8e``, which
float32 survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from types import MappingProxyType

from param_tools.check import check_model
from param_tools.errors import ModelFormatError
from param_tools.graph import Layer, Model, ParamValue, Scalar

__all__ = ["MAGIC", "MAX_PARAM_ID", "format_param", "parse_param"]

MAGIC = 7767517
MAX_PARAM_ID = 31
_MAX_NAME_BYTES = 255
_ARRAY_ID = -23300  # an array of parameter id is written as -23300-id=n,... in the old syntax
_INT = re.compile(rb"[+-]?\d+\Z")
_FLOAT = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_QUOTED_TOKEN = re.compile(rb'[+-]?\d+="[^"]*"|\S+')

_Path = "str | PathLike[str] | None"


class _Bad(Exception):
    """What is wrong with a token; the caller knows the line."""


def parse_param(text: str | bytes, *, path: str | PathLike[str] | None = None) -> Model:
    """Reads a .param.

    Args:
        text: the file's content.
        path: named in errors.

    Raises:
        ModelFormatError: anything ncnn could not load, with path and line: a bad magic number or count, a
            malformed layer or parameter, a blob that is unknown, produced twice or part of a cycle.
    """
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line and not line.isspace()]
    if not lines or lines[0][1].split() != [b"%d" % MAGIC]:
        raise ModelFormatError(
            f"not an ncnn .param: the first line is not {MAGIC}", path=path, line=lines[0][0] if lines else 1
        )
    if len(lines) < 2:
        raise ModelFormatError("the line with the layer and blob counts is missing", path=path, line=lines[0][0] + 1)
    counts_line, counts = lines[1][0], lines[1][1].split()
    if len(counts) != 2 or not all(count.isdigit() and len(count) <= 10 for count in counts):
        raise ModelFormatError("expected the number of layers and the number of blobs", path=path, line=counts_line)
    known: dict[bytes, tuple[int, ParamValue]] = {}
    layers = []
    for number, line in lines[2:]:
        try:
            layers.append(_parse_layer(line, number, known))
        except _Bad as bad:
            raise ModelFormatError(str(bad), path=path, line=number) from None
    model = Model(tuple(layers))
    check_model(model, path=path)
    actual = (len(layers), len(model.producers))
    if actual != (int(counts[0]), int(counts[1])):
        raise ModelFormatError(
            f"the file says {int(counts[0])} layers and {int(counts[1])} blobs but has {actual[0]} and {actual[1]}",
            path=path,
            line=counts_line,
            hint="is it truncated? otherwise correct this line",
        )
    return model


def _parse_layer(line: bytes, number: int, known: dict[bytes, tuple[int, ParamValue]]) -> Layer:
    tokens = _QUOTED_TOKEN.findall(line) if b'"' in line else line.split()
    if len(tokens) < 4:
        raise _Bad("a layer needs a type, a name and its numbers of inputs and outputs")
    for count in tokens[2:4]:
        if not (count.isdigit() and len(count) <= 7):
            raise _Bad(f"not a number of blobs: {_show(count)}")
    inputs_end = 4 + int(tokens[2])
    outputs_end = inputs_end + int(tokens[3])
    if outputs_end > len(tokens):
        raise _Bad(
            f"the line names fewer blobs than the {int(tokens[2])} inputs and {int(tokens[3])} outputs it announces"
        )
    for name in tokens[:2] + tokens[4:outputs_end]:
        if len(name) > _MAX_NAME_BYTES:
            raise _Bad(f"name of {len(name)} bytes, ncnn reads {_MAX_NAME_BYTES}")
    params: dict[int, ParamValue] = {}
    for token in tokens[outputs_end:]:
        found = known.get(token)
        if found is None:
            found = known[token] = _parse_token(token)
        if found[0] in params:
            raise _Bad(f"parameter {found[0]} is given twice")
        params[found[0]] = found[1]
    names = [_text(token) for token in tokens[:outputs_end]]
    return Layer(
        type=names[0],
        name=names[1],
        inputs=tuple(names[4:inputs_end]),
        outputs=tuple(names[inputs_end:outputs_end]),
        params=MappingProxyType(params),
        line=number,
        raw=_text(line),
    )


def _parse_token(token: bytes) -> tuple[int, ParamValue]:
    head, equals, body = token.partition(b"=")
    if not equals or not _INT.match(head) or len(head) > 10:
        raise _Bad(f"expected id=value, found {_show(token)}")
    param_id = int(head)
    old_array = param_id <= _ARRAY_ID
    if old_array:
        param_id = _ARRAY_ID - param_id
    if not 0 <= param_id <= MAX_PARAM_ID:
        raise _Bad(f"parameter id {int(head)} in {_show(token)} is not in 0..{MAX_PARAM_ID}")
    if old_array:
        parts = body.split(b",")
        if not _INT.match(parts[0]) or int(parts[0][:10]) != len(parts) - 1:
            raise _Bad(f"array {_show(token)} does not have the length it states")
        value: Scalar | tuple[int | float, ...] = tuple(_number(part) for part in parts[1:])
    elif body[:1] == b'"' or body[:1].isalpha():
        value = _text(body.strip(b'"'))
    elif b"," in body:
        parts = body.split(b",")
        value = tuple(_number(part) for part in (parts if parts[-1] else parts[:-1]))
    else:
        value = _number(body)
    return param_id, ParamValue(value, _text(token))


def _number(token: bytes) -> int | float:
    if _INT.match(token):
        value = int(token[:20])
        if -(2**31) <= value < 2**31:
            return value
        raise _Bad(f"{_show(token)} is not a 32-bit integer")
    if _FLOAT.match(token):
        return float(token)
    raise _Bad(f"not a number: {_show(token)}")


def _text(token: bytes) -> str:
    return token.decode("utf-8", "surrogateescape")


def _show(token: bytes) -> str:
    text = token.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_param(model: Model) -> str:
    """Writes `model` as a .param; layers as they were read keep their line byte for byte."""
    lines = [str(MAGIC), f"{len(model.layers)} {len(model.producers)}"]
    lines.extend(map(_format_layer, model.layers))
    return "\n".join(lines) + "\n"


def _format_layer(layer: Layer) -> str:
    tail = " ".join((*layer.inputs, *layer.outputs, *_format_params(layer)))
    line = f"{layer.type:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)} {tail}".rstrip()
    return layer.raw if layer.raw and layer.raw.split() == line.split() else line


def _format_params(layer: Layer) -> Iterator[str]:
    for param_id, param in layer.params.items():
        yield param.raw or _format_param(param_id, param.value)


def _format_param(param_id: int, value: Scalar | tuple[int | float, ...]) -> str:
    if isinstance(value, tuple):
        return f"{_ARRAY_ID - param_id}={','.join([str(len(value)), *map(_format_number, value)])}"
    if isinstance(value, str):
        return f'{param_id}="{value}"'
    return f"{param_id}={_format_number(value)}"


def _format_number(value: int | float) -> str:
    return f"{value:.8e}" if isinstance(value, float) else str(int(value))
