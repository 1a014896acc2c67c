"""Reading pickles without running them: what they name becomes numpy arrays, dicts, lists, tuples, numbers and text.

A pickle is a program that may call whatever it can import. The unpickler (:mod:`detcon_d2.checkpoint.safe_load.unpickler`) only records
its names and calls, as :class:`Named`. Afterwards :func:`plain` makes the values of the few calls that it knows, and compares what they
claim with what the file holds before it allocates memory. Objects of other classes are left out; they were never built. Values from a
file are quoted by reprlib: the full text of a value in a small file can exceed the memory.
"""

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from reprlib import repr as short
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

ADVICE = "Open it in the environment of its authors and save its state dict alone."
MAX_DEPTH, MAX_ITEMS, _MAX_AXES = 100, 5_000_000, 64
_DTYPE = re.compile(r"[<>|=]?[biufcSUV]\d*|\|?O8?")
# jax's 16-bit floats are the upper half of a float32. No file can ask for this type by its code.
_BFLOAT16 = np.dtype([("bfloat16", "u2")])
_LEFT_OUT = object()
"""Takes the place of an object that is left out, until the container around it drops it."""


class UnsafeCheckpointError(ValueError):
    """A checkpoint needs more than tensors, arrays and plain containers, or it cannot be read at all."""


class NotPlainError(UnsafeCheckpointError):
    """One object is no tensor, array or plain container. If a file holds weights besides, it is left out."""


def refused_name(path: str) -> NotPlainError:
    """The refusal of a class or function that a file names."""
    reason = "only tensors, arrays and plain containers are loaded, because other classes can run code"
    return NotPlainError(f"asks for {path}; {reason}. {ADVICE}")


class Named:
    """A class or function that a pickle names or, with ``arguments``, a call of it that is recorded and not made."""

    def __new__(cls, *arguments: Any) -> "Named":
        # The opcode NEWOBJ makes an object by cls.__new__(cls, *arguments), and there cls is an instance of this class.
        return cls(*arguments) if isinstance(cls, Named) else super().__new__(cls)

    def __init__(self, path: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.path, self.arguments = path, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """The record of the call; a dict in place of a mapping that the pickle fills afterwards."""
        if self.arguments is not None:
            raise UnsafeCheckpointError(f"calls a result of {self.path}. {ADVICE}")
        if self.path == "collections.OrderedDict" and arguments:
            check_keys(key for key, _ in arguments[0])
        elif self.path in ("collections.OrderedDict", "collections.defaultdict"):
            return OrderedDict()
        return Named(self.path, arguments)

    def __setstate__(self, state: Any) -> None:
        if self.arguments is None:
            raise UnsafeCheckpointError(f"sets the state of {self.path} itself. {ADVICE}")
        self.state = state

    def append(self, *_: Any) -> None:
        """Items of a list or dict of a class that is left out are left out with it."""
        if self.arguments is None or self.path in CALLS:
            raise UnsafeCheckpointError(f"sets items of a {self.path}. {ADVICE}")

    extend = update = append


Makers = Mapping[str, Callable[[Named], Any] | None]
"""Name -> what makes the value of a call of it; None for a name that only occurs in the arguments of others."""


def plain(value: Any, size: int, calls: Makers | None = None) -> Any:
    """``value`` with every call in it replaced by what the call returns; dicts and lists are changed in place.

    What is no tensor, array or plain container is left out (in a list or tuple: None), and one line of the log names it.

    Args:
        value: what an unpickler returned.
        size: bytes of the file. All calls together may make at most a small multiple, so that a file cannot have its bytes copied often.
        calls: the calls that are made; default :data:`CALLS`.

    Raises:
        NotPlainError: no array or tensor is left, or ``value`` itself is left out.
        UnsafeCheckpointError: for containers that are nested deeper than :data:`MAX_DEPTH` or contain themselves, and for more than
            :data:`MAX_ITEMS` values, where a container counts each time that it occurs.
    """
    walk = _Plain(8 * size + 2**20, CALLS if calls is None else calls)
    value = walk.walk(value, 0)
    if walk.left_out and (value is _LEFT_OUT or not walk.arrays):
        raise next(iter(walk.left_out.values()))
    if walk.left_out:
        logger.info("Left out of the checkpoint, without being built: %s", ", ".join(walk.left_out))
    return value


class _Plain:
    def __init__(self, budget: int, calls: Makers) -> None:
        self.count, self.budget, self.calls, self.arrays = 0, budget, calls, 0
        self.left_out: dict[str, NotPlainError] = {}

    def walk(self, item: Any, depth: int, inside_call: bool = False) -> Any:
        self.count += 1
        if depth > MAX_DEPTH:
            raise UnsafeCheckpointError(f"is nested more than {MAX_DEPTH} deep, or in a circle")
        if self.count > MAX_ITEMS:
            raise UnsafeCheckpointError(f"has more than {MAX_ITEMS} values when written out")
        if isinstance(item, Named) and item.arguments is not None and item.path in self.calls:
            try:
                item = self.result(item, depth + 1)
            except NotPlainError as error:
                if inside_call:
                    raise
                return self.leave_out(item.path, error)
        if isinstance(item, dict):
            items = [(self.walk(key, depth + 1), self.walk(old, depth + 1, inside_call)) for key, old in item.items()]
            item.clear()
            item.update((key, old) for key, old in items if key is not _LEFT_OUT and old is not _LEFT_OUT)
            if isinstance(item, OrderedDict):
                self.walk(vars(item), depth + 1)
        elif type(item) is list:
            item[:] = self.items(item, depth, inside_call)
        elif type(item) is tuple:
            item = tuple(self.items(item, depth, inside_call))
        elif isinstance(item, Named | np.dtype) and not inside_call:
            path = getattr(item, "path", "numpy.dtype")
            itself = f"holds {path} itself where a value is expected. {ADVICE}"
            return self.leave_out(path, NotPlainError(itself) if path in CALLS or path == "numpy.dtype" else refused_name(path))
        return item

    def items(self, sequence: list[Any] | tuple[Any, ...], depth: int, inside_call: bool) -> list[Any]:
        found = (self.walk(old, depth + 1, inside_call) for old in sequence)
        return [None if item is _LEFT_OUT else item for item in found]

    def leave_out(self, path: str, error: NotPlainError) -> Any:
        self.left_out.setdefault(path, error)
        return _LEFT_OUT

    def result(self, call: Named, depth: int) -> Any:
        """What a call returns: one object, however often the pickle refers to this call."""
        if not hasattr(call, "result"):
            make = self.calls[call.path]
            if make is None:
                raise UnsafeCheckpointError(f"calls {call.path}, which it may only name. {ADVICE}")
            call.arguments, call.state = self.walk(call.arguments, depth, True), self.walk(call.state, depth, True)
            call.result = make(call)
            if isinstance(call.result, dict):
                self.walk(call.result, depth)
            self.arrays += getattr(call.result, "ndim", 0) > 0
            sized = isinstance(call.result, bytes | bytearray | dict)
            self.budget -= len(call.result) if sized else getattr(call.result, "nbytes", 0)
            if self.budget < 0:
                raise UnsafeCheckpointError("makes far more arrays or bytes than it holds")
        return call.result


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse all keys of a dict except flat ones: the hash of a deeply nested tuple overflows the stack of the interpreter."""
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(isinstance(part, str | int | float | bytes | None | np.generic | Named) for part in parts):
            raise UnsafeCheckpointError(f"has a {type(key).__name__} as the key of a dict; expected text or numbers")


def check_shape(shape: Any, itemsize: int, available: int) -> None:
    """Refuse a claimed shape that is not a shape, or that does not need exactly the ``available`` bytes."""
    if type(shape) is not tuple or len(shape) > _MAX_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise UnsafeCheckpointError(f"has an array of shape {short(shape)}, which is none")
    needed = math.prod(shape) * itemsize
    if needed != available:
        raise UnsafeCheckpointError(f"has an array that claims the shape {shape}, so {needed} bytes, where there are {available}")


def _dtype(call: Named) -> np.dtype:
    """Of numbers, text, raw bytes or Python objects. The state is (version, byte order, subtype, field names, ...)."""
    code, state = call.arguments[0], call.state
    if isinstance(code, Named) and code.path == "ml_dtypes.bfloat16":
        return _BFLOAT16
    if type(code) is not str or not _DTYPE.fullmatch(code) or (state and state[2:4] != (None, None)):
        raise NotPlainError(f"has an array of type {short(code)}; expected plain numbers. {ADVICE}")
    return np.dtype(code).newbyteorder(state[1] if state else "=")


def _array(shape: Any, dtype: np.dtype, content: Any, order: Any = "C") -> np.ndarray:
    """A writable array in native byte order from exactly the bytes that it needs; bfloat16 becomes float32, which is exact."""
    if dtype.hasobject or not dtype.itemsize:
        kind = "Python objects" if dtype.hasobject else "items without bytes"
        raise NotPlainError(f"has an array of {kind}; expected numbers. {ADVICE}")
    content = content.encode("latin-1") if isinstance(content, str) else content
    check_shape(shape, dtype.itemsize, len(content))
    array = np.ndarray(shape, dtype, content, order="F" if order == "F" else "C")
    if dtype == _BFLOAT16:
        return np.asarray((array["bfloat16"].astype(np.uint32) << 16).view(np.float32))
    return np.array(array, dtype.newbyteorder("="))


def _filled(state: Any) -> np.ndarray:
    """The array whose pickle sets this state: (version, shape, dtype, Fortran order, bytes)."""
    shape, dtype, fortran, content = state[-4:]
    return _array(shape, dtype, content, "F" if fortran else "C")


def _frombuffer(content: Any, dtype: np.dtype, shape: Any, order: Any, axes: tuple[int, ...] | None = None) -> np.ndarray:
    return _array(shape, dtype, content, order) if axes is None else _array(shape, dtype, content).transpose(axes)


def _bytes(content: Any = b"", codec: Any = "latin-1") -> bytes:
    """How protocols 0 to 2 write bytes: as text in latin-1, and empty bytes as a call without arguments."""
    if not isinstance(content, bytes | str) or codec not in ("latin1", "latin-1"):
        raise UnsafeCheckpointError(f"makes bytes of {short(content)} by the codec {short(codec)}; bytes in a pickle are latin1")
    return content if isinstance(content, bytes) else content.encode("latin-1")


_JAX = ("jax._src.array._reconstruct_array", "jax.experimental.array._reconstruct_array")
_JAX += ("jax._src.device_array.reconstruct_device_array", "jax.interpreters.xla.reconstruct_device_array")
_BUILTINS: dict[str, Callable[[Named], Any] | None] = {
    "bytes": lambda call: _bytes(*call.arguments),
    "bytearray": lambda call: bytearray(_bytes(*call.arguments)),
    "complex": lambda call: complex(*call.arguments),
    **dict.fromkeys(("dict", "list", "int", "float")),  # the values of a defaultdict
}
_NUMPY: dict[str, Callable[[Named], Any]] = {
    "multiarray._reconstruct": lambda call: _filled(call.state),
    "multiarray.scalar": lambda call: _array((), *call.arguments)[()],
    "numeric._frombuffer": lambda call: _frombuffer(*call.arguments),
}
CALLS: Makers = {
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "ml_dtypes.bfloat16": None,
    **{f"numpy.{core}.{name}": make for core in ("core", "_core") for name, make in _NUMPY.items()},
    **{name: lambda call: _filled(call.arguments[2]) for name in _JAX},
    **{f"haiku._src.data_structures.{name}": lambda call: dict(*call.arguments) for name in ("FlatMapping", "FlatMap", "frozendict")},
    "collections.OrderedDict": lambda call: dict(*call.arguments),
    "collections.defaultdict": None,
    "argparse.Namespace": lambda call: dict(call.state),
    "_codecs.encode": lambda call: _bytes(*call.arguments),
    **{f"{module}.{name}": make for module in ("builtins", "__builtin__") for name, make in _BUILTINS.items()},
}
"""What every checkpoint may contain. haiku writes FlatMapping for its FlatMap as well; early releases of jax write numpy arrays."""
