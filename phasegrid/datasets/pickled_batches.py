"""Read the files of CIFAR-10 and CIFAR-100 ("python version", Krizhevsky 2009) without unpickling.

A file is a pickle of a dict whose ``data`` is an array (N, 3072) of uint8, and ``labels`` or
``fine_labels`` a list of integers. A pickle is a program for a machine with a stack; its
instructions are followed here for constants, lists, tuples and dicts alone. Names of functions, and
calls of them, become values that say so. So nothing in the file is imported or executed.
"""

import pickletools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasegrid.errors import DataError


@dataclass(slots=True)
class _Call:
    """What a pickle would call, with which arguments, and the state it would set on the result."""

    function: Any
    arguments: Any
    state: Any = field(default=None)


class _UnknownError(Exception):
    """The file has a structure that no file of CIFAR has."""


_MARK = object()
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
_CONSTANTS = {*_NUMBERS, *_TEXTS, *_BYTES, "GLOBAL"}
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_IGNORED = {"PROTO", "FRAME", "STOP"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")


def read_batch(name: str, path: Path, labels: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images (N, 3, 32, 32) and the labels (N,) of a file; `labels` is the name of its
    list, `name` that of the data set, for messages.

    Raises:
        DataError: if the file is damaged or is none of CIFAR.
    """
    try:
        content = _follow(path.read_bytes())
        images, numbers = _array(content["data"]), np.asarray(content[labels], dtype=np.int64)
        if images.shape != (len(numbers), 3 * 32 * 32):
            raise _UnknownError(f"data has the shape {images.shape} for {len(numbers)} labels")
    except (
        _UnknownError,
        ArithmeticError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        raise DataError(
            f"loading data set {name}: {path} is damaged, or no file of its python version"
            f" ({error}). Delete the file and fetch it again"
        ) from error
    return images.reshape(-1, 3, 32, 32), numbers


def _array(value: Any) -> NDArray[np.uint8]:
    """Return the array of uint8 that a call with its state would make."""
    if not isinstance(value, _Call) or value.function not in _ARRAYS:
        raise _UnknownError("data is no array")
    _, shape, dtype, by_columns, data = value.state
    if not isinstance(dtype, _Call) or _text(dtype.arguments[0]) not in ("u1", "|u1") or by_columns:
        raise _UnknownError("data is no array of uint8 by rows")
    return np.frombuffer(_bytes(data), dtype=np.uint8).reshape(shape)


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _bytes(value: Any) -> bytes:
    """Return bytes that Python 2 wrote as text, or Python 3 as a call that encodes text."""
    if isinstance(value, _Call) and value.function == "_codecs encode":
        value = value.arguments[0]
    return value if isinstance(value, bytes) else value.encode("latin-1")


def _follow(data: bytes) -> Any:
    """Return the value of a pickle, with calls left as they are."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _CONSTANTS:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _PUT:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name not in _IGNORED:
            _build(name, stack)
    (value,) = stack
    return value


def _build(name: str, stack: list[Any]) -> None:
    """Follow an instruction that makes a value of others."""
    if name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name in _SHORT_TUPLES:
        count = _SHORT_TUPLES[name]
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack)))
    elif name in ("APPEND", "APPENDS"):
        values = _since_mark(stack) if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(values)
    elif name in ("SETITEM", "SETITEMS"):
        values = _since_mark(stack) if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(zip(map(_text, values[::2]), values[1::2], strict=True))
    elif name == "STACK_GLOBAL":
        function, module = stack.pop(), stack.pop()
        stack.append(f"{module} {function}")
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_Call(function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    else:
        raise _UnknownError(f"instruction {name}")


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take the values after the last mark off the stack."""
    values: list[Any] = []
    while (value := stack.pop()) is not _MARK:
        values.append(value)
    return values[::-1]
