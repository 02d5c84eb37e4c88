"""Profiles, plans and machines as versioned JSON: written whole or not at all, checked to the last field when read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from flexnn_ncnn.errors import InputError, PlanError, ProfileError
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.records import machine, plan, profile
from flexnn_ncnn.records.machine import Device
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.profile import ModelProfile
from flexnn_ncnn.records.profile_check import check_profile
from param_tools.errors import FlexnnError, FormatVersionError

__all__ = [
    "device_document",
    "has_plan",
    "read_device",
    "read_plan",
    "read_profile",
    "read_record",
    "write_plan",
    "write_profile",
    "write_record",
]

_PLAN, _PROFILE, _MACHINE = "flexnn-plan", "flexnn-profile", "flexnn-fingerprint"
_MAX_BYTES = 64 * 1024 * 1024  # parsed, it takes ten times that; ResNet-152's plan is a hundredth

Record = TypeVar("Record")
_Shared = dict[Any, Any]


def write_plan(value: Plan, path: str | os.PathLike[str]) -> None:
    """Write a plan, replacing the file as a whole.

    Raises:
        PlanError: it breaks a rule.
    """
    validate_plan(value)
    write_record(value, _PLAN, plan.FORMAT_VERSION, path)


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan.

    Raises:
        FormatVersionError: another release's format.
        PlanError: not a plan, a damaged one, or one that breaks a rule.
    """
    return _proved(read_record(Plan, _PLAN, plan.FORMAT_VERSION, path, PlanError), validate_plan, path)


def has_plan(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as plans of this release do; `read_plan` finds out whether it goes on so."""
    begin = _begin_of(_PLAN, plan.FORMAT_VERSION).encode()
    try:
        with open(path, "rb") as file:
            return file.read(len(begin)) == begin
    except OSError:
        return False


def write_profile(value: ModelProfile, path: str | os.PathLike[str]) -> None:
    """Write a profile, replacing the file as a whole.

    Raises:
        ProfileError: it breaks a rule.
    """
    check_profile(value)
    write_record(value, _PROFILE, profile.FORMAT_VERSION, path)


def read_profile(path: str | os.PathLike[str]) -> ModelProfile:
    """Read a profile.

    Raises:
        FormatVersionError: another release's format.
        ProfileError: not a profile, a damaged one, or one that breaks a rule.
    """
    found = read_record(ModelProfile, _PROFILE, profile.FORMAT_VERSION, path, ProfileError)
    return _proved(found, check_profile, path)


def _proved(value: Record, prove: Callable[[Record], None], path: str | os.PathLike[str]) -> Record:
    """`value`, which breaks no rule; an error says which file does."""
    try:
        prove(value)
    except (PlanError, ProfileError) as problem:
        raise type(problem)(f"{os.fspath(path)}: {problem.message}", hint=problem.hint) from problem
    return value


def device_document(value: Device) -> dict[str, Any]:
    """A device as JSON for people and `read_device`: the facts of its machine, their fingerprint, and the rest."""
    rest = {"fingerprint": value.machine.fingerprint, "ram_bytes": value.ram_bytes, "has_threads": value.has_threads}
    return _document(value.machine, _MACHINE, machine.FORMAT_VERSION) | rest


def read_device(path: str | os.PathLike[str]) -> Device:
    """Read what `flexnn fingerprint` wrote.

    Raises:
        FormatVersionError: another release's format.
        InputError: no fingerprint, or one that does not fit its facts.
    """
    document = read_document(_MACHINE, machine.FORMAT_VERSION, path, InputError)
    stated = document.pop("fingerprint", None)
    rest = {name: document.pop(name) for name in ("ram_bytes", "has_threads") if name in document}
    found = decode_record(Device, {"machine": document, **rest}, _MACHINE, path, InputError)
    if stated != found.machine.fingerprint:
        raise InputError(f"{os.fspath(path)}: its fingerprint is not that of its facts", hint="make it again")
    return found


def write_record(value: Any, kind: str, version: int, path: str | os.PathLike[str]) -> None:
    """Write a dataclass as a document of format `kind`, replacing the file as a whole."""
    from param_tools.model_io import atomic_write  # not needed to run a plan that is there

    with atomic_write(path, "w") as file:
        json.dump(_document(value, kind, version), file, separators=(",", ":"), allow_nan=False)
        file.write("\n")


def read_record(
    cls: type[Record], kind: str, version: int, path: str | os.PathLike[str], error: type[FlexnnError]
) -> Record:
    """Read a dataclass from a document of format `kind`.

    Raises:
        FormatVersionError: another release's format.
        FlexnnError: of class `error`: no such file, or anything wrong in it.
    """
    found = _read_by_items(cls, kind, version, path)
    return decode_record(cls, read_document(kind, version, path, error), kind, path, error) if found is None else found


def _read_by_items(cls: type[Record], kind: str, version: int, path: str | os.PathLike[str]) -> Record | None:
    """What `read_record` reads, with no more of the document as objects at once than an item of a list.

    A plan's document as a whole takes megabytes, of which Python keeps half a megabyte. None for anything but a good
    document that is written as `write_record` does: it is for others to say what is wrong with it.
    """
    begin, scan, shared = _begin_of(kind, version), json.JSONDecoder().raw_decode, _Shared()
    hints, found, at = typing.get_type_hints(cls), dict[str, Any](), len(begin)
    try:
        text = Path(path).read_text("utf-8") if Path(path).stat().st_size <= _MAX_BYTES else ""
        while text.startswith(begin) and (at == len(begin) or text[at] == ","):
            name, at = scan(text, at + (at > len(begin)))
            item, at = _item_hint(hints[name]), at + 1
            if text[at - 1] != ":" or name in found:
                return None
            if item is None or text[at : at + 2] == "[]":
                value, at = scan(text, at)
                found[name] = _decoder(hints[name])(value, shared)
                continue
            items: list[Any] = []
            while text[at] == ("," if items else "["):
                value, at = scan(text, at + 1)
                items.append(_decoder(item)(value, shared))
            if text[at] != "]":
                return None
            found[name], at = tuple(items), at + 1
        return cls(**found) if text[at:] == "}\n" and found.keys() == hints.keys() else None
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def _item_hint(hint: Any) -> Any:
    """Of what records a field is a list, or None for any other."""
    args = typing.get_args(hint)
    is_list = typing.get_origin(hint) is tuple and len(args) == 2 and args[1] is Ellipsis
    return args[0] if is_list and dataclasses.is_dataclass(args[0]) else None


def _begin_of(kind: str, version: int) -> str:
    """How every document that `write_record` writes begins."""
    return json.dumps({"format": kind, "version": version}, separators=(",", ":"))[:-1] + ","


def _document(value: Any, kind: str, version: int) -> dict[str, Any]:
    return {"format": kind, "version": version, **dataclasses.asdict(value)}


def read_document(kind: str, version: int, path: str | os.PathLike[str], error: type[FlexnnError]) -> dict[str, Any]:
    """The fields of a document of format `kind`, beside format and version; errors as `read_record`."""
    where = os.fspath(path)
    try:
        if Path(path).stat().st_size > _MAX_BYTES:
            raise error(f"{where}: larger than any {kind}")
        document = json.loads(Path(path).read_bytes())
    except OSError as problem:
        raise error(f"{where}: cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"{where}: not JSON: {problem}") from problem
    if not isinstance(document, dict) or document.pop("format", None) != kind:
        raise error(f"{where}: not a {kind} file")
    if (found := document.pop("version", None)) != version or type(found) is not int:
        raise FormatVersionError(kind, found=found, supported=(version,), path=where)
    return document


def decode_record(
    cls: type[Record], document: Any, kind: str, path: str | os.PathLike[str], error: type[FlexnnError]
) -> Record:
    """A dataclass from the fields of a document; errors as `read_record`."""
    try:
        return typing.cast(Record, _decode(cls, document, kind))
    except (TypeError, ValueError, OverflowError) as problem:
        raise error(f"{os.fspath(path)}: {problem}", hint="make it again") from problem


class _Misfit(ValueError):  # noqa: N818 - never seen outside
    """A value that is not what a hint says; `where` is put together on the way out."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(problem)
        self.problem, self.where = problem, where

    def within(self, outer: str) -> _Misfit:
        """The same, seen from further out."""
        return _Misfit(self.problem, outer + self.where)


_Decode = Callable[[Any, _Shared], Any]


def _decode(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` says; ValueError names the field that is not.

    Equal texts, and equal tuples and records of nothing but plain values, become one object: a plan says the same many
    times.
    """
    try:
        return _decoder(hint)(value, {})
    except _Misfit as misfit:
        raise ValueError(f"{where}{misfit.where} {misfit.problem}") from None


@cache
def _decoder(hint: Any) -> _Decode:
    if dataclasses.is_dataclass(hint):
        return _record_decoder(typing.cast(type, hint))
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _tuple_decoder(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return _union_decoder(typing.get_args(hint))
    name = getattr(hint, "__name__", hint)

    def number(value: Any, _: _Shared) -> float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
        raise _Misfit(f"is {value!r}, not {name}")

    def plain(value: Any, shared: _Shared) -> Any:
        if type(value) is hint:
            return shared.setdefault(value, value) if hint is str else value
        raise _Misfit(f"is {value!r}, not {name}")

    return number if hint is float else plain


def _record_decoder(cls: type) -> _Decode:
    hints = typing.get_type_hints(cls)
    fields = {name: _decoder(hint) for name, hint in hints.items()}
    is_leaf = all(hint in (int, str, bool) for hint in hints.values())

    def record(value: Any, shared: _Shared) -> Any:
        if not isinstance(value, dict) or value.keys() != fields.keys():
            odd = sorted(set(value) ^ set(fields)) if isinstance(value, dict) else value
            raise _Misfit(f"does not have the fields of a {cls.__name__}: {odd!r}")
        found = {}
        for name, decode in fields.items():
            try:
                found[name] = decode(value[name], shared)
            except _Misfit as misfit:
                raise misfit.within(f".{name}") from None
        made = cls(**found)
        return shared.setdefault(made, made) if is_leaf else made

    return record


def _tuple_decoder(args: tuple[Any, ...]) -> _Decode:
    decoders = [_decoder(arg) for arg in args if arg is not Ellipsis]
    any_length = len(args) == 2 and args[1] is Ellipsis
    is_leaf = not any(map(_holds_records, args))

    def items(value: Any, shared: _Shared) -> Any:
        if not isinstance(value, list):
            raise _Misfit(f"is {value!r}, not a list")
        if not any_length and len(value) != len(decoders):
            raise _Misfit(f"has {len(value)} items, not {len(decoders)}")
        found = []
        for i, (decode, item) in enumerate(zip(decoders * len(value) if any_length else decoders, value, strict=True)):
            try:
                found.append(decode(item, shared))
            except _Misfit as misfit:
                raise misfit.within(f"[{i}]") from None
        made = tuple(found)
        # by its text: 1 and 1.0 are equal, and not the same to ncnn
        return shared.setdefault(repr(made), made) if is_leaf else made

    return items


def _union_decoder(options: tuple[Any, ...]) -> _Decode:
    decoders = [_decoder(option) for option in options]

    def first(value: Any, shared: _Shared) -> Any:
        for decode in decoders:
            try:
                return decode(value, shared)
            except _Misfit:
                continue
        raise _Misfit(f"is {value!r}")

    return first


def _holds_records(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or any(map(_holds_records, typing.get_args(hint)))
