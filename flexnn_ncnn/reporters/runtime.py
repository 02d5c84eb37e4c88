"""The ncnn in use and the ones that were built, as text."""

from __future__ import annotations

from typing import TextIO

from flexnn_ncnn.building.build import BuiltWheel
from flexnn_ncnn.building.install import Installed, RuntimeInfo
from flexnn_ncnn.records.capabilities import CAPABILITY_EFFECTS
from flexnn_ncnn.reporters.escape import printable

__all__ = ["write_info", "write_installed", "write_wheel"]


def write_info(info: RuntimeInfo, stream: TextIO) -> None:
    """One line for each thing the ncnn in use can or cannot do."""
    kind = "patched" if info.patches else "stock"
    _write_pairs([("ncnn", f"{info.version}, {kind}"), ("folder", str(info.path))], stream)
    stream.write("\n")
    width = max(map(len, CAPABILITY_EFFECTS))
    for name, effect in CAPABILITY_EFFECTS.items():
        has = "yes" if getattr(info.capabilities, name) else "no"
        stream.write(f"{name:{width}}  {has:3}  {effect}\n")
    for wheel in info.built:
        remark = "" if wheel.is_current else ", from other patches"
        stream.write(f"\nbuilt     {printable(str(wheel.path))}{remark}")
    stream.write("\n" if info.built else "")
    if not info.patches:
        what = "install' installs it" if info.built else "build' builds a patched one"
        stream.write(f"\n'flexnn runtime {what}.\n")


def write_wheel(wheel: BuiltWheel, stream: TextIO) -> None:
    """What was built, and what to do with it."""
    kernels = "of this CPU" if wheel.native else "of every CPU of this kind"
    pairs = [
        ("wheel", str(wheel.path)),
        ("ncnn", wheel.version),
        ("patches", ", ".join(wheel.patches)),
        ("kernels", kernels + (", with Vulkan" if wheel.vulkan else "")),
    ]
    _write_pairs(pairs, stream)
    stream.write("\n'flexnn runtime install' installs it.\n")


def write_installed(done: Installed, stream: TextIO) -> None:
    """What was installed in place of what, and how to go back."""
    pairs = [("installed", f"ncnn {done.after}"), ("before", f"ncnn {done.before}" if done.before else "none")]
    _write_pairs([*pairs, ("wheel", str(done.wheel)), ("go back", done.way_back)], stream)


def _write_pairs(pairs: list[tuple[str, str]], stream: TextIO) -> None:
    for name, value in pairs:
        stream.write(f"{name:9} {printable(value)}\n")
