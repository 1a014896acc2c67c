"""Reading pickles without running them: a small stack machine in place of :class:`pickle.Unpickler`.

A pickle is a program that may call anything it can import. Here a name in it only looks up a table of inert stand-ins
(:mod:`detcon_d2.checkpoint.safe_load.stand_ins`); no module is imported, nothing from the file is called, and no memory is taken for what
the file claims but does not hold. The opcodes are decoded by :mod:`pickletools`; byte strings of Python 2 become latin-1 text.
"""

import codecs
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from detcon_d2.checkpoint.safe_load.errors import ADVICE, UnsafeCheckpointError, refused_global
from detcon_d2.checkpoint.safe_load.stand_ins import STAND_INS, StandIn, check_keys

_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class RestrictedUnpickler:
    """Reads one pickle after the other from ``file``, which must be an ``io.BytesIO`` or a memory map.

    Args:
        file: positioned at the start of a pickle.
        stand_ins: what the names "module.name" in the pickle stand for: functions, or classes of stand-ins.
    """

    def __init__(self, file: BinaryIO, stand_ins: Mapping[str, Callable[..., Any]] = STAND_INS) -> None:
        self._file, self._stand_ins = file, stand_ins

    def load(self) -> Any:
        """The object of the next pickle; its arrays are still stand-ins (:func:`detcon_d2.checkpoint.safe_load.stand_ins.plain`).

        Raises:
            UnsafeCheckpointError: it asks for a name or a feature of pickles that checkpoints do not need.
            Exception: of any other kind, where the pickle is damaged.
        """
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        while True:
            name, argument = self._next()
            if name == "STOP":
                return self._stack.pop()
            if name in _VALUES:
                self._push(argument)
            elif name in _HANDLERS:
                _HANDLERS[name](self, argument)
            elif name not in _IGNORED:
                raise UnsafeCheckpointError(f"uses the pickle opcode {name}, which no checkpoint needs and which can run code. {ADVICE}")

    def find(self, path: str) -> Any:
        """The stand-in for "module.name"."""
        if path not in self._stand_ins:
            raise refused_global(path)
        return self._stand_ins[path]

    def persistent(self, key: Any) -> Any:
        """The object that is stored outside the pickle under ``key``."""
        raise UnsafeCheckpointError(f"refers to an object outside the pickle, {str(key)[:60]!r}, which is not there. {ADVICE}")

    def _next(self) -> tuple[str, Any]:
        code = self._file.read(1)
        if code not in _OPCODES:
            raise ValueError(f"no pickle opcode: {code!r}")
        opcode = _OPCODES[code]
        if opcode.name == "STRING":  # pickletools wants ASCII, Python 2 wrote arrays of protocol 0 this way
            return opcode.name, codecs.escape_decode(self._file.readline().strip()[1:-1])[0].decode("latin-1")
        return opcode.name, opcode.arg.reader(self._file) if opcode.arg else None

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("too few values on the stack")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise UnsafeCheckpointError(f"appends to a {type(target).__name__}, not to a list")
        target.extend(items)

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict:
            raise UnsafeCheckpointError(f"sets items of a {type(target).__name__}, not of a dict")
        check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))

    def _dict(self, items: list[Any]) -> None:
        self._push({})
        self._update(items)

    def _global(self, argument: str) -> None:
        self._push(self.find(argument.replace(" ", ".", 1)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        if type(module) is not str or type(name) is not str:
            raise UnsafeCheckpointError("names a class by something that is no text")
        self._push(self.find(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        if not callable(function) or type(arguments) is not tuple:
            raise UnsafeCheckpointError(f"calls a {type(function).__name__}")
        self._push(function(*arguments))

    def _build(self, _: Any) -> None:
        target, state = self._pop(2)
        if isinstance(target, StandIn):
            target.__setstate__(state)
        elif type(target) is not dict:  # a dict: the attributes of an OrderedDict, such as the versions in a state dict
            raise UnsafeCheckpointError(f"sets the state of a {type(target).__name__}")
        self._push(target)

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._push(self._memo[index])


_IGNORED = {"PROTO", "FRAME"}
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_VALUES |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}

_Machine = RestrictedUnpickler
_HANDLERS: dict[str, Callable[[RestrictedUnpickler, Any], None]] = {
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine._stack.pop() if machine._stack else machine._pop_to_mark(),
    "POP_MARK": lambda machine, _: machine._pop_to_mark(),
    "DUP": lambda machine, _: machine._push(machine._stack[-1]),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, _: machine._push(tuple(machine._pop(1))),
    "TUPLE2": lambda machine, _: machine._push(tuple(machine._pop(2))),
    "TUPLE3": lambda machine, _: machine._push(tuple(machine._pop(3))),
    "LIST": lambda machine, _: machine._push(machine._pop_to_mark()),
    "DICT": lambda machine, _: machine._dict(machine._pop_to_mark()),
    "APPEND": lambda machine, _: machine._extend(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._update(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._update(machine._pop_to_mark()),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": lambda machine, _: machine._push(machine.persistent(machine._stack.pop())),
    "PERSID": lambda machine, key: machine._push(machine.persistent(key)),
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": lambda machine, _: machine._put(len(machine._memo)),
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
}
