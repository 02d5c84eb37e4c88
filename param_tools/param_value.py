"""One parameter of a .param line: token <-> `ParamValue`, as the installed ncnn reads it."""

from __future__ import annotations

import re

from param_tools.graph import ParamValue, Scalar

__all__ = [
    "MAX_PARAM_ID",
    "MAX_TEXT_BYTES",
    "OLD_ARRAY_ID",
    "ParamTextError",
    "Value",
    "decode",
    "format_value",
    "parse_token",
    "show",
]

MAX_PARAM_ID = 31
MAX_TEXT_BYTES = 255  # of a name or a string
OLD_ARRAY_ID = -23300  # the old syntax writes an array of parameter id as -23300-id=n,...
Value = Scalar | tuple[int | float, ...]

_MAX_NUMBER_BYTES = 127
_PARAM = re.compile(rb"([+-]?\d{1,15})=(.+)\Z", re.DOTALL)
_LENGTH = re.compile(rb"\+?\d{1,9}\Z")
_INT = re.compile(rb"[+-]?\d+\Z")
_FLOAT = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z")
_FLOAT32_OVERFLOW = float.fromhex("0x1.ffffffp127")  # the first double that rounds to infinity


class ParamTextError(Exception):
    """What is wrong with a piece of text; the caller knows the file and the line."""


def parse_token(token: bytes) -> tuple[int, ParamValue]:
    """Reads "id=value" without white space around it, other than inside quotes.

    Raises:
        ParamTextError: a token ncnn refuses.
    """
    match = _PARAM.match(token)
    if match is None:
        raise ParamTextError(f"expected id=value, found {show(token)}")
    param_id, body = int(match[1]), match[2]
    old_array = param_id <= OLD_ARRAY_ID
    if old_array:
        param_id = OLD_ARRAY_ID - param_id
    if not 0 <= param_id <= MAX_PARAM_ID:
        raise ParamTextError(f"the parameter id of {show(token)} is not in 0..{MAX_PARAM_ID}")
    value = _parse_old_array(body, token) if old_array else _parse_value(body, token)
    return param_id, ParamValue(value, decode(token))


def _parse_old_array(body: bytes, token: bytes) -> Value:
    length, *elements = body.split(b",")
    if not _LENGTH.match(length) or int(length) != len(elements):
        raise ParamTextError(f"array {show(token)} has not the length it states")
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
        raise ParamTextError(f"array {show(token)} begins with an integer and goes on with a float")
    return values


def _parse_string(body: bytes, token: bytes) -> str:
    if len(body) > MAX_TEXT_BYTES:
        raise ParamTextError(f"a string of {len(body)} bytes, ncnn reads {MAX_TEXT_BYTES}")
    if body[:1] != b'"':
        return decode(body[:-1] if body.endswith(b'"') else body)
    if len(body) < 2 or not body.endswith(b'"'):
        raise ParamTextError(f"the string {show(token)} has no closing quote")
    return decode(body[1:-1])


def _parse_number(token: bytes) -> int | float:
    if len(token) > _MAX_NUMBER_BYTES:
        raise ParamTextError(f"a number of {len(token)} characters, ncnn reads {_MAX_NUMBER_BYTES}")
    if _INT.match(token):
        value = int(token)
        if not -(2**31) <= value < 2**31:
            raise ParamTextError(f"{show(token)} is not a 32-bit integer")
        return value
    if _FLOAT.match(token):
        number = float(token)
        if abs(number) >= _FLOAT32_OVERFLOW:
            raise ParamTextError(f"{show(token)} is not a 32-bit float")
        return number
    raise ParamTextError(f"not a number: {show(token)}")


def decode(token: bytes) -> str:
    """Text of any bytes; encoding it with "surrogateescape" gives them back."""
    return token.decode("utf-8", "surrogateescape")


def show(token: bytes) -> str:
    """The beginning of a token, quoted, for an error message."""
    text = token.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def format_value(param_id: int, value: Value) -> str:
    """Writes "id=value": an array in the old syntax, which every ncnn reads, a float as %.8e.

    Raises:
        ParamTextError: a value that the format cannot hold.
    """
    if isinstance(value, tuple):
        numbers = [_format_number(number) for number in value]
        return f"{OLD_ARRAY_ID - param_id}={','.join([str(len(value)), *numbers])}"
    if isinstance(value, str):
        if '"' in value or "\n" in value or "\r" in value or len(value.encode("utf-8", "surrogateescape")) > 253:
            raise ParamTextError(f"the string {value[:40]!r}")
        return f'{param_id}="{value}"'
    return f"{param_id}={_format_number(value)}"


def _format_number(value: int | float) -> str:
    if isinstance(value, float):
        if not abs(value) < _FLOAT32_OVERFLOW:
            raise ParamTextError(f"{value}, which is no 32-bit float")
        return f"{value:.8e}"
    if not -(2**31) <= value < 2**31:
        raise ParamTextError(f"{value}, which is no 32-bit integer")
    return str(int(value))
