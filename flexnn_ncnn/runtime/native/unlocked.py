"""Calls of `ncnn.Layer` that let other Python threads run meanwhile, on bindings that keep the interpreter lock.

The stock bindings let go of the lock in `Extractor.extract` alone. What takes a layer its time, making its pipeline and
computing, are virtual methods of C++ that need no Python. So they are called here where they are, through the object's
table of virtual methods, as C++ compilers do (the Itanium C++ ABI): two destructors, then the methods in the order of
ncnn's layer.h. ctypes lets go of the lock for as long as a call takes.

Nobody promises any of that. So nothing is called here before `native.proof` has had a process of its own compare such
calls with the bindings' own, for the very file that ncnn is loaded from.

What the bindings would catch ends the process: an allocator in Python must not raise, nor may a signal handler that
runs within it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["create_pipeline", "forward", "forward_inplace"]

# layer.h: ~Layer (two entries), load_param, load_model, create_pipeline, destroy_pipeline, forward of lists, forward,
# forward_inplace of a list, forward_inplace
_CREATE_PIPELINE, _FORWARD, _FORWARD_INPLACE = 4, 7, 9
# pybind11's instance: the object's header, then the address of the C++ object
_VALUE_OFFSET_BYTES = object.__basicsize__

_Address = ctypes.c_void_p
_Method = Callable[..., int]


def create_pipeline(layer: Any, option: Any) -> int:
    """`layer.create_pipeline(option)`."""
    address = _address(layer)
    return _methods(_read(address))[0](address, _address(option))


def forward(layer: Any, bottom: Any, top: Any, option: Any) -> int:
    """`layer.forward(bottom_blob=bottom, top_blob=top, opt=option)`."""
    address = _address(layer)
    return _methods(_read(address))[1](address, _address(bottom), _address(top), _address(option))


def forward_inplace(layer: Any, blob: Any, option: Any) -> int:
    """`layer.forward_inplace(bottom_top_blob=blob, opt=option)`."""
    address = _address(layer)
    return _methods(_read(address))[2](address, _address(blob), _address(option))


@cache
def _methods(table: int) -> tuple[_Method, _Method, _Method]:
    """The methods of a class by the address of its table; all of ncnn's layers come wrapped in one class."""

    def method(number: int, arguments: int) -> _Method:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[_Address] * (1 + arguments))
        return prototype(_read(table + number * ctypes.sizeof(_Address)))

    return method(_CREATE_PIPELINE, 1), method(_FORWARD, 3), method(_FORWARD_INPLACE, 2)


def _address(wrapped: Any) -> int:
    """Where the C++ object is that one of the bindings' stands for."""
    return _read(id(wrapped) + _VALUE_OFFSET_BYTES)


def _read(address: int) -> int:
    return _Address.from_address(address).value or 0
