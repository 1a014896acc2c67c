"""What the names in a pickled checkpoint stand for: inert replacements for numpy's, haiku's, jax's and argparse's classes.

None of those modules is imported for a file's sake, and a stand-in takes no memory before it has compared what a file claims with what
it holds. :func:`plain` turns the result into plain containers and numpy arrays.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from detcon_d2.checkpoint.safe_load.errors import ADVICE, UnsafeCheckpointError

MAX_DEPTH, MAX_ITEMS = 100, 5_000_000
_DTYPE = re.compile(r"[<>|=]?([biufcSUV])\d*")


class StandIn:
    """An object of a class that a checkpoint names; pickles give it its content through ``__setstate__``."""

    def __setstate__(self, state: Any) -> None:
        raise UnsafeCheckpointError(f"sets the state of a {type(self).__name__}")

    def value(self) -> Any:
        """The plain value it stands for."""
        raise UnsafeCheckpointError(f"holds a {type(self).__name__} where a tensor or a plain value belongs")


class Bfloat16(StandIn):
    """The type of jax's 16-bit floats (the upper half of a float32)."""


class DType(StandIn):
    """numpy.dtype: numbers, text and raw bytes in either byte order."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.bfloat16 = isinstance(code, type) and issubclass(code, Bfloat16)
        self.object = code in ("O", "O8", "|O")
        if self.object:
            return
        if not self.bfloat16 and not (type(code) is str and _DTYPE.fullmatch(code)):
            raise UnsafeCheckpointError(f"has an array of type {str(code)[:60]!r}; expected plain numbers. {ADVICE}")
        self.numpy = np.dtype("u2" if self.bfloat16 else code)
        if not self.numpy.itemsize:
            raise UnsafeCheckpointError(f"has an array of type {code!r}, whose items have no bytes")

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, *_ = state
        if subtype is not None or names is not None:
            raise UnsafeCheckpointError("has a structured array; expected plain numbers. " + ADVICE)
        if not self.object:
            self.numpy = self.numpy.newbyteorder(order)

    def array(self, shape: tuple[int, ...], content: bytes | bytearray | str, order: str = "C") -> np.ndarray:
        """A writable array in native byte order from exactly the bytes it needs; bfloat16 widened to float32, which is exact."""
        if self.object:
            raise UnsafeCheckpointError("has an array of Python objects; expected numbers. " + ADVICE)
        content = content.encode("latin-1") if isinstance(content, str) else content
        check_shape(shape, self.numpy.itemsize, len(content))
        array = np.ndarray(shape, self.numpy, content, order=order)
        if self.bfloat16:
            return np.asarray((array.astype(np.uint32) << 16).view(np.float32))
        return np.array(array, self.numpy.newbyteorder("="))


class Array(StandIn):
    """numpy.ndarray as its pickle makes it: empty first, then filled."""

    _array: np.ndarray | None = None
    objects: tuple[Any, ...] | None = None
    """The items of an array of Python objects with at most one axis."""

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, content = state[-4:]
        if dtype.object and type(content) is list and tuple(shape) in ((), (len(content),)):
            self.objects, self.shape = tuple(content), tuple(shape)
        else:
            self._array = dtype.array(shape, content, "F" if fortran else "C")

    def value(self) -> np.ndarray:
        if self._array is None:
            raise UnsafeCheckpointError("has an array of Python objects, or one without content; expected numbers. " + ADVICE)
        return self._array


class Namespace(StandIn):
    """argparse.Namespace and similar holders of options: a dict of its attributes."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> dict[str, Any]:
        if type(self.state) is not dict:
            raise UnsafeCheckpointError("has a Namespace without attributes")
        return self.state


def check_shape(shape: Any, itemsize: int, available: int) -> None:
    """Refuse an array whose claimed shape is no shape or does not need exactly the ``available`` bytes."""
    if type(shape) is not tuple or not all(type(length) is int and length >= 0 for length in shape):
        raise UnsafeCheckpointError(f"has an array of shape {str(shape)[:60]}, which is none")
    needed = math.prod(shape) * itemsize
    if needed != available:
        raise UnsafeCheckpointError(f"has an array that claims the shape {shape}, so {needed} bytes, where there are {available}")


def plain(value: Any) -> Any:
    """``value`` with every stand-in replaced by what it stands for.

    Raises:
        UnsafeCheckpointError: a stand-in without plain value; nested deeper than :data:`MAX_DEPTH` (or in a circle); more than
            :data:`MAX_ITEMS` values when containers that occur several times are written out.
    """
    return _Plain().walk(value, 0)


class _Plain:
    count = 0

    def walk(self, item: Any, depth: int) -> Any:
        self.count += 1
        if depth > MAX_DEPTH:
            raise UnsafeCheckpointError(f"is nested more than {MAX_DEPTH} deep, or in a circle")
        if self.count > MAX_ITEMS:
            raise UnsafeCheckpointError(f"has more than {MAX_ITEMS} values when written out")
        if isinstance(item, StandIn):
            item = item.value()
        if isinstance(item, dict):
            if any(isinstance(key, StandIn) for key in item):
                raise UnsafeCheckpointError("has a key of a dict that is neither text nor a number")
            for key, old in item.items():
                item[key] = self.walk(old, depth + 1)
        elif type(item) is list:
            item[:] = [self.walk(old, depth + 1) for old in item]
        elif type(item) is tuple:
            item = tuple(self.walk(old, depth + 1) for old in item)
        elif callable(item):
            raise UnsafeCheckpointError(f"holds {getattr(item, '__name__', 'a function')} itself where a value belongs")
        return item


def _reconstruct(kind: type[Array], *_: Any) -> Array:
    """numpy's empty array; the shape that comes with it is not looked at."""
    if not (isinstance(kind, type) and issubclass(kind, Array)):
        raise UnsafeCheckpointError("has an array of another class than numpy.ndarray. " + ADVICE)
    return kind()


def _scalar(dtype: DType, content: bytes | str) -> np.generic:
    return dtype.array((), content)[()]


def _frombuffer(content: bytes, dtype: DType, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None) -> np.ndarray:
    if axes is None:
        return dtype.array(shape, content, order)
    return dtype.array(shape, content).transpose(axes)


def _jax_array(make: Callable[..., Array], arguments: tuple[Any, ...], state: Any, _: Any) -> Array:
    array = make(*arguments)
    array.__setstate__(state)
    return array


def _encode(text: str, codec: str) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if codec not in ("latin1", "latin-1"):
        raise UnsafeCheckpointError(f"encodes text as {str(codec)[:60]!r}; bytes in a pickle are latin1")
    return text.encode("latin-1")


def _bytes() -> bytes:
    """Protocols 0 to 2 write empty bytes as a call."""
    return b""


def _bytearray(content: Any = b"", codec: str = "latin-1") -> bytearray:
    if not isinstance(content, bytes | str):
        raise UnsafeCheckpointError("makes a bytearray of something that is no bytes")
    return bytearray(content) if isinstance(content, bytes) else bytearray(_encode(content, codec))


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _dict(items: Any = ()) -> dict[Any, Any]:
    """Of an OrderedDict or one of haiku's mappings."""
    check_keys(items if isinstance(items, dict) else [key for key, _ in items])
    return dict(items)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _factory(*_: Any) -> Any:
    raise UnsafeCheckpointError("calls the class of a defaultdict's values")


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse all but flat keys: the hash of a deeply nested tuple overflows the stack of the interpreter."""
    for key in keys:
        if not all(isinstance(part, _KEYS) for part in (key if type(key) is tuple else (key,))):
            raise UnsafeCheckpointError(f"has a {type(key).__name__} as the key of a dict; expected text or numbers")


_KEYS = (str, int, float, bytes, type(None), np.generic, StandIn)
_JAX = ("jax._src.array._reconstruct_array", "jax.experimental.array._reconstruct_array")
_JAX += ("jax._src.device_array.reconstruct_device_array", "jax.interpreters.xla.reconstruct_device_array")
_BUILTINS = ("builtins", "__builtin__")

STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": Array,
    "numpy.dtype": DType,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _frombuffer for core in ("core", "_core")},
    "ml_dtypes.bfloat16": Bfloat16,
    **dict.fromkeys(_JAX, _jax_array),
    **{f"haiku._src.data_structures.{name}": _dict for name in ("FlatMapping", "FlatMap", "frozendict")},
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    **{f"{module}.{name}": _factory for module in _BUILTINS for name in ("dict", "list", "int", "float")},
    **{f"{module}.bytes": _bytes for module in _BUILTINS},
    **{f"{module}.bytearray": _bytearray for module in _BUILTINS},
    **{f"{module}.complex": _complex for module in _BUILTINS},
    "argparse.Namespace": Namespace,
    "_codecs.encode": _encode,
}
"""By "module.name". haiku writes FlatMapping for its FlatMap as well; early releases of jax write numpy arrays."""
