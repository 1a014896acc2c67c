"""Checkpoint files that would run code or exhaust memory, each payload in each kind of container."""

import builtins
import importlib
import io
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Calls:
    """Pickles as the call ``function(*arguments)``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def calling(function: Callable[..., Any], *arguments: Any) -> bytes:
    return pickle.dumps({"model": Calls(function, *arguments)}, protocol=2)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def stack_global(module: str, name: str, *arguments: str) -> bytes:
    """Protocol 4, whose names may have dots that are followed from attribute to attribute."""
    call = b"(" + b"".join(map(text, arguments)) + b"tR"
    return b"\x80\x04" + text(module) + text(name) + b"\x93" + call + b"."


# A tuple in a tuple and so on: its hash would overflow the stack of the interpreter.
NESTED = b")" + b"\x85" * 300_000
# A tuple that has eight times the one before, forty times: its text would exceed any memory.
SHARED = b")" + (b"q\x000(" + b"h\x00" * 8 + b"t") * 40

PAYLOADS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "os.system": (lambda marker: calling(os.system, f"mkdir {marker}"), r"asks for (posix|nt)\.system"),
    "os.mkdir": (lambda marker: calling(os.mkdir, marker), r"asks for (posix|nt)\.mkdir"),
    "subprocess": (lambda marker: calling(subprocess.check_call, ["mkdir", marker]), r"asks for (subprocess|commands)\.check_call"),
    "eval": (lambda marker: calling(builtins.eval, f"__import__('os').mkdir({marker!r})"), r"asks for (builtins|__builtin__)\.eval"),
    "exec": (lambda marker: calling(builtins.exec, f"import os; os.mkdir({marker!r})"), r"asks for (builtins|__builtin__)\.exec"),
    "numpy helper": (lambda marker: calling(np.savetxt, marker, [1]), r"asks for numpy.*\.savetxt"),
    "dotted name": (lambda marker: stack_global("shutil", "os.mkdir", marker), r"asks for shutil\.os\.mkdir"),
    "STACK_GLOBAL": (lambda marker: stack_global("os", "mkdir", marker), r"asks for os\.mkdir"),
    "INST": (lambda marker: b"(S" + repr(marker).encode() + b"\nios\nmkdir\n.", "opcode INST"),
    "OBJ": (lambda marker: b"(cos\nmkdir\n" + text(marker) + b"o.", r"asks for os\.mkdir"),
    "after a good part": (lambda marker: b"}0" + stack_global("os", "mkdir", marker), r"asks for os\.mkdir"),
}
"""What a payload makes of the path of a folder that does not exist, which ``pickle.loads`` would create; and the reason for the refusal."""

INERT_PAYLOADS: dict[str, tuple[bytes, str]] = {
    "importlib": (calling(importlib.import_module, "antigravity"), r"asks for importlib\.import_module"),
    "getattr": (calling(getattr, {}, "clear"), r"asks for (builtins|__builtin__)\.getattr"),
    "walk from an allowed module": (stack_global("collections", "_sys.modules.get", "os"), r"asks for collections\._sys\.modules\.get"),
    "attribute of an allowed class": (
        stack_global("collections", "OrderedDict.fromkeys", "a"),
        r"asks for collections\.OrderedDict\.fromkeys",
    ),
    "global without text": (b"\x80\x04" + text("os") + b"N\x93.", "cut short or damaged"),
    "copyreg": (b"\x80\x02ccopy_reg\n_reconstructor\n(tR.", r"asks for copy_?reg\._reconstructor"),
    "extension": (b"\x80\x02\x82\xf0.", "opcode EXT1"),
    "buffer outside": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "keyword arguments": (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "persistent id": (b"\x80\x02K\x01Q.", "refers to an object outside the pickle"),
    "call of a value": (b"\x80\x02K\x01)R.", "cut short or damaged"),
    "call of a result": (b"\x80\x02cnumpy\ndtype\n)R)R.", "calls a result of numpy.dtype"),
    "state of a class": (b"\x80\x02cnumpy\ndtype\n}b.", "sets the state of numpy.dtype itself"),
    "class as a value": (b"\x80\x02cnumpy\ndtype\n.", "holds numpy.dtype itself"),
    "state of a value": (b"\x80\x02]}b.", "sets the state of a list"),
    "items of a function": (b"\x80\x02ccollections\nOrderedDict\nK\x01K\x02s.", "sets items of a "),
    "append to a dict": (b"\x80\x02}K\x01a.", "cut short or damaged"),
    "key of a nested tuple": (b"\x80\x02}" + NESTED + b"Ns.", "has a tuple as the key of a dict"),
    "pair with a nested tuple": (b"\x80\x02ccollections\nOrderedDict\n]" + NESTED + b"N\x86a\x85R.", "has a tuple as the key of a dict"),
    "set of a nested tuple": (
        b"\x80\x02c__builtin__\nset\n]" + NESTED + b"a\x85R.",
        r"has a tuple as the key of a dict|asks for __builtin__\.set",
    ),
    "storage of a nested tuple": (
        b"\x80\x02(" + text("storage") + b"ctorch\nFloatStorage\n" + NESTED + text("cpu") + b"K\x01tQ.",
        r"refers to an object outside the pickle|asks for torch\.FloatStorage",
    ),
    "text of a shared tuple": (b"\x80\x02" + SHARED + b"Q.", "refers to an object outside the pickle"),
    "nested list": (b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", "nested more than 100 deep"),
    "nested tuple": (b"\x80\x02)" + b"\x85" * 10_000 + b".", "nested more than 100 deep"),
    "list in itself": (b"\x80\x02]q\x00h\x00a.", "nested more than 100 deep, or in a circle"),
}


def as_pickle(path: Path, payload: bytes) -> None:
    path.write_bytes(payload)


def as_npy(path: Path, payload: bytes) -> None:
    path.write_bytes(npy(payload))


def as_npz(path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.npy", npy_of(np.ones(2)))
        archive.writestr("weights.npy", npy(payload))


def as_legacy(path: Path, payload: bytes) -> None:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = b"".join(pickle.dumps(part, protocol=2) for part in (LEGACY_MAGIC, 1001, system))
    path.write_bytes(start + payload + pickle.dumps([], protocol=2))


def as_torch_zip(path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")


CONTAINERS: dict[str, Callable[[Path, bytes], None]] = {
    "pickle": as_pickle,
    "npy": as_npy,
    "npz": as_npz,
    "legacy torch": as_legacy,
    "zip torch": as_torch_zip,
}


def npy(payload: bytes, **header: Any) -> bytes:
    """A numpy file of one object, or with another header."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (), **header})
    return file.getvalue() + payload


def npy_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def claiming(path: Path, size: int, compression: int = zipfile.ZIP_STORED) -> None:
    """Make the first entry of a zip file claim ``size`` bytes in the list of contents."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
        archive.filelist[0].file_size = size


def removed(marker: Path) -> bool:
    """Whether the marker was there; it is not any more."""
    if not marker.exists():
        return False
    shutil.rmtree(marker) if marker.is_dir() else marker.unlink()
    return True
