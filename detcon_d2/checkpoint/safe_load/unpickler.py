"""The unpickler: it reads every opcode that a checkpoint needs, and records what the pickle names and calls without doing it."""

import io
import pickle
import pickletools
from collections import OrderedDict
from reprlib import repr as short
from typing import Any, BinaryIO

from detcon_d2.checkpoint.safe_load.pickles import ADVICE, CALLS, Named, UnsafeCheckpointError, check_keys, plain, refused_name

_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
# Other calls than REDUCE and NEWOBJ, objects that are named by a number or are outside the file, and sets, whose items would be hashed
# before they can be checked.
_REFUSED = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "ADDITEMS", "FROZENSET"}


class _OpcodeError(UnsafeCheckpointError):
    """The pickle uses an opcode that is refused."""


class _Handlers(dict):
    """Opcode -> method of the unpickler; any other opcode is refused."""

    def __missing__(self, code: int) -> Any:
        if code not in _OPCODES:
            raise ValueError(f"no pickle opcode: {code}")
        raise _OpcodeError(f"uses the pickle opcode {_OPCODES[code].name}, which no checkpoint needs. {ADVICE}")


class RestrictedUnpickler(pickle._Unpickler):
    """Reads one pickle after the other from a file. In what it returns, all that the pickle names is still :class:`Named`.

    Nothing else that the pickle puts on the stack can be called, has a state or has attributes. The class extends the standard library's
    unpickler in Python, not the one in C: that one allocates memory for a high index in the memo and for the claimed length of a bytearray,
    and a deeply nested tuple as the key of a dict overflows its stack.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Byte strings of Python 2, such as the arrays in Caffe2's files, become latin-1 text.
        super().__init__(file, encoding="latin-1")
        self._unknown = ""

    def load(self) -> Any:
        """The next object. If the pickle uses a refused opcode for a class that is not known either, the class is the reason."""
        try:
            return super().load()
        except _OpcodeError as error:
            raise refused_name(self._unknown) if self._unknown else error from None

    def find_class(self, module: str, name: str) -> Named:
        """The record of "module.name"."""
        path = f"{module}.{name}"
        if path not in CALLS:
            self._unknown = self._unknown or path
        return Named(path)

    def persistent_load(self, key: Any) -> Any:
        """The object that is stored outside the pickle under ``key``."""
        raise UnsafeCheckpointError(f"refers to an object outside the pickle, {short(key)}, which is not there. {ADVICE}")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Named):
            target.__setstate__(state)
        elif type(target) is not OrderedDict:
            raise UnsafeCheckpointError(f"sets the state of a {type(target).__name__}")
        elif type(state) is dict and type(state.get("_metadata")) is OrderedDict:
            target._metadata = state["_metadata"]  # the versions of the modules of a state dict

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | Named):
            raise UnsafeCheckpointError(f"sets items of a {type(target).__name__}, not of a dict")
        if isinstance(target, dict):
            check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))

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
