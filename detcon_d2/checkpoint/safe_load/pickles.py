"""Reading pickles without running them: what they name becomes numpy arrays, dicts, lists, tuples, numbers and text.

A pickle is a program that may call whatever it can import. Here its names and calls are only recorded, as :class:`Named`. Afterwards
:func:`plain` makes the values of the few calls that it knows, and compares what they claim with what the file holds before it allocates
memory. Values from a file are quoted by reprlib: the full text of a value in a small file can exceed the memory.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable
from reprlib import repr as short
from typing import Any, BinaryIO

import numpy as np

ADVICE = "Open it in the environment of its authors and save its state dict alone."
MAX_DEPTH, MAX_ITEMS, _MAX_AXES = 100, 5_000_000, 64
_DTYPE = re.compile(r"[<>|=]?[biufcSUV]\d*|\|?O8?")
# jax's 16-bit floats are the upper half of a float32. No file can ask for this type by its code.
_BFLOAT16 = np.dtype([("bfloat16", "u2")])


class UnsafeCheckpointError(ValueError):
    """A checkpoint needs more than tensors, arrays and plain containers, or it cannot be read at all."""


def refused_name(path: str) -> UnsafeCheckpointError:
    """The refusal of a class or function that a file names."""
    reason = "only tensors, arrays and plain containers are loaded, because other classes can run code"
    return UnsafeCheckpointError(f"asks for {path}; {reason}. {ADVICE}")


class Named:
    """A class or function that a pickle names or, with ``arguments``, a call of it that is recorded and not made."""

    def __new__(cls, *arguments: Any) -> "Named":
        # torch's unpickler makes an object by cls.__new__(cls, *arguments), and there cls is an instance of this class.
        return cls(*arguments) if isinstance(cls, Named) else super().__new__(cls)

    def __init__(self, path: str, arguments: tuple[Any, ...] | None = None) -> None:
        self.path, self.arguments = path, arguments
        self.state: Any = None

    def __call__(self, *arguments: Any) -> Any:
        """The record of the call. Of a mapping that the pickle fills afterwards, a dict: torch sets items of real dicts only."""
        if self.arguments is not None:
            raise UnsafeCheckpointError(f"calls a result of {self.path}. {ADVICE}")
        if self.path == "collections.OrderedDict" and arguments:
            check_keys(key for key, _ in arguments[0])  # torch makes it at once
        elif self.path in ("collections.OrderedDict", "collections.defaultdict"):
            return {}
        return Named(self.path, arguments)

    def __setstate__(self, state: Any) -> None:
        if self.arguments is None:
            raise UnsafeCheckpointError(f"sets the state of {self.path} itself. {ADVICE}")
        self.state = state


def plain(value: Any, size: int) -> Any:
    """``value`` with every call in it replaced by what the call returns; dicts and lists are changed in place.

    Args:
        value: what an unpickler returned.
        size: bytes of the file. All calls together may make at most a small multiple, so that a file cannot have its bytes copied often.

    Raises:
        UnsafeCheckpointError: for a name without a call, for containers that are nested deeper than :data:`MAX_DEPTH` or contain
            themselves, and for more than :data:`MAX_ITEMS` values, where a container counts each time that it occurs.
    """
    return _Plain(8 * size + 2**20).walk(value, 0)


class _Plain:
    def __init__(self, budget: int) -> None:
        self.count, self.budget = 0, budget

    def walk(self, item: Any, depth: int, inside_call: bool = False) -> Any:
        self.count += 1
        if depth > MAX_DEPTH:
            raise UnsafeCheckpointError(f"is nested more than {MAX_DEPTH} deep, or in a circle")
        if self.count > MAX_ITEMS:
            raise UnsafeCheckpointError(f"has more than {MAX_ITEMS} values when written out")
        if isinstance(item, Named) and item.arguments is not None:
            item = self.result(item, depth + 1)
        if isinstance(item, dict):
            items = {self.walk(key, depth + 1): self.walk(old, depth + 1, inside_call) for key, old in item.items()}
            item.clear()
            item.update(items)
        elif type(item) is list:
            item[:] = [self.walk(old, depth + 1, inside_call) for old in item]
        elif type(item) in (tuple, set):
            item = type(item)([self.walk(old, depth + 1, inside_call) for old in item])
        elif isinstance(item, Named | np.dtype) and not inside_call:
            raise UnsafeCheckpointError(f"holds {getattr(item, 'path', 'numpy.dtype')} itself where a value is expected. {ADVICE}")
        return item

    def result(self, call: Named, depth: int) -> Any:
        """What a call returns: one object, however often the pickle refers to this call."""
        if not hasattr(call, "result"):
            if CALLS[call.path] is None:
                raise UnsafeCheckpointError(f"calls {call.path}, which it may only name. {ADVICE}")
            call.arguments, call.state = self.walk(call.arguments, depth, True), self.walk(call.state, depth, True)
            call.result = CALLS[call.path](call)
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
        raise UnsafeCheckpointError(f"has an array of type {short(code)}; expected plain numbers. {ADVICE}")
    return np.dtype(code).newbyteorder(state[1] if state else "=")


def _array(shape: Any, dtype: np.dtype, content: Any, order: Any = "C") -> np.ndarray:
    """A writable array in native byte order from exactly the bytes that it needs; bfloat16 becomes float32, which is exact."""
    if dtype.hasobject or not dtype.itemsize:
        kind = "Python objects" if dtype.hasobject else "items without bytes"
        raise UnsafeCheckpointError(f"has an array of {kind}; expected numbers. {ADVICE}")
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
CALLS: dict[str, Callable[[Named], Any] | None] = {
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
"""Name that a checkpoint may contain -> what makes the value of a call; None for a name that only occurs in the arguments of others.
haiku writes FlatMapping for its FlatMap as well; early releases of jax write numpy arrays."""

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# Other calls than REDUCE and NEWOBJ, objects that are named by a number or are outside the file, and sets, whose items would be hashed
# before they can be checked.
_REFUSED = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "ADDITEMS", "FROZENSET"}


class _Handlers(dict):
    """Opcode -> method of the unpickler; any other opcode is refused."""

    def __missing__(self, code: int) -> Any:
        if code not in _OPCODES:
            raise ValueError(f"no pickle opcode: {code}")
        raise UnsafeCheckpointError(f"uses the pickle opcode {_OPCODES[code].name}, which no checkpoint needs. {ADVICE}")


class RestrictedUnpickler(pickle._Unpickler):
    """Reads one pickle after the other from a file. In what it returns, all that the pickle names is still :class:`Named`.

    Nothing else that the pickle puts on the stack can be called, has a state or has attributes. The class extends the standard library's
    unpickler in Python, not the one in C: that one allocates memory for a high index in the memo and for the claimed length of a bytearray,
    and a deeply nested tuple as the key of a dict overflows its stack.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Byte strings of Python 2, such as the arrays in Caffe2's files, become latin-1 text.
        super().__init__(file, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Named:
        """The record of "module.name"."""
        if f"{module}.{name}" not in CALLS:
            raise refused_name(f"{module}.{name}")
        return Named(f"{module}.{name}")

    def persistent_load(self, key: Any) -> Any:
        """The object that is stored outside the pickle under ``key``."""
        raise UnsafeCheckpointError(f"refers to an object outside the pickle, {short(key)}, which is not there. {ADVICE}")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Named):
            target.__setstate__(state)
        elif type(target) is not dict:  # a dict: the attributes of an OrderedDict, such as the versions in a state dict
            raise UnsafeCheckpointError(f"sets the state of a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise UnsafeCheckpointError(f"sets items of a {type(self.stack[-1]).__name__}, not of a dict")
        check_keys(items[::2])
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _bytearray(self) -> None:
        self.load_binbytes8()
        self.stack[-1] = bytearray(self.stack[-1])

    dispatch = _Handlers(
        (code, handler)
        for code, handler in pickle._Unpickler.dispatch.items()
        if _OPCODES[code].proto <= 5 and _OPCODES[code].name not in _REFUSED
    )
    dispatch |= {
        pickle.BUILD[0]: _build,
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: lambda self: self._set_items([self.stack.pop(-2), self.stack.pop()]),
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.BYTEARRAY8[0]: _bytearray,
    }


def read_pickle(content: bytes, start: int = 0) -> Any:
    """The plain object of a pickle that begins at ``start``; an array of objects gives its one object, or with one axis a tuple of them."""
    file = io.BytesIO(content)
    file.seek(start)
    value = RestrictedUnpickler(file).load()
    objects = value.state[-1] if isinstance(value, Named) and type(value.state) is tuple else None
    if type(objects) is list and value.state[-4] in ((), (len(objects),)):
        value = tuple(objects) if value.state[-4] else objects[0]
    return plain(value, len(content))
