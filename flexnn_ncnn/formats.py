"""Profiles, plans and machines as versioned JSON: written whole or not at all, checked to the last field when read."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from flexnn_ncnn import machine, plan, profile
from flexnn_ncnn.errors import InputError, PlanError, ProfileError
from flexnn_ncnn.machine import Device
from flexnn_ncnn.plan import Plan
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.profile import ModelProfile
from flexnn_ncnn.profile_check import check_profile
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
    found = read_record(Plan, _PLAN, plan.FORMAT_VERSION, path, PlanError)
    try:
        validate_plan(found)
    except PlanError as problem:
        raise PlanError(f"{os.fspath(path)}: {problem.message}", hint=problem.hint) from problem
    return found


def has_plan(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as plans of this release do; `read_plan` finds out whether it goes on so."""
    begin = json.dumps({"format": _PLAN, "version": plan.FORMAT_VERSION}, separators=(",", ":"))[:-1].encode() + b","
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
    try:
        check_profile(found)
    except ProfileError as problem:
        raise ProfileError(f"{os.fspath(path)}: {problem.message}", hint=problem.hint) from problem
    return found


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
    return decode_record(cls, read_document(kind, version, path, error), kind, path, error)


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
        return typing.cast(Record, _decode(cls, document, kind, {}))
    except (TypeError, ValueError, OverflowError) as problem:
        raise error(f"{os.fspath(path)}: {problem}", hint="make it again") from problem


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _decode(hint: Any, value: Any, where: str, known: dict[str, Any]) -> Any:
    """`value` as the type `hint` says; ValueError names the field that is not.

    Args:
        hint: a type.
        value: as JSON gives it.
        where: the field.
        known: tuples without records by their text: the parameters of all slices of a layer are one object.
    """
    if dataclasses.is_dataclass(hint):
        return _decode_record(typing.cast(type, hint), value, where, known)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _decode_tuple(typing.get_args(hint), value, where, known)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _decode(option, value, where, known)
            except ValueError:
                continue
        raise ValueError(f"{where} is {value!r}")
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise ValueError(f"{where} is {value!r}, not {getattr(hint, '__name__', hint)}")


def _decode_record(cls: type, value: Any, where: str, known: dict[str, Any]) -> Any:
    hints = _hints(cls)
    if not isinstance(value, dict) or value.keys() != hints.keys():
        odd = sorted(set(value) ^ set(hints)) if isinstance(value, dict) else value
        raise ValueError(f"{where} does not have the fields of a {cls.__name__}: {odd!r}")
    return cls(**{name: _decode(hint, value[name], f"{where}.{name}", known) for name, hint in hints.items()})


def _decode_tuple(args: tuple[Any, ...], value: Any, where: str, known: dict[str, Any]) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {value!r}, not a list")
    is_plain = not any(isinstance(item, dict) for item in value)
    text = f"{args}{value}" if is_plain else ""
    if text in known:
        return typing.cast(tuple[Any, ...], known[text])
    if len(args) == 2 and args[1] is Ellipsis:
        found = tuple(_decode(args[0], item, f"{where}[{i}]", known) for i, item in enumerate(value))
    elif len(args) != len(value):
        raise ValueError(f"{where} has {len(value)} items, not {len(args)}")
    else:
        pairs = enumerate(zip(args, value, strict=True))
        found = tuple(_decode(arg, item, f"{where}[{i}]", known) for i, (arg, item) in pairs)
    if is_plain:
        known[text] = found
    return found
