"""Files of torch.save, in a zip archive or, before torch 1.6, one pickle after the other. torch itself does not read them.

One reader inspects a file and makes the tensors from the same bytes. Two readers could be led to different contents: torch, for example,
takes another one of two lists of contents in an archive, and finds names without regard to case.
"""

import io
import math
import mmap
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from detcon_d2.checkpoint.safe_load.pickles import ADVICE, CALLS, Makers, Named, NotPlainError, UnsafeCheckpointError, plain
from detcon_d2.checkpoint.safe_load.unpickler import RestrictedUnpickler

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickled number at the start of files from before torch 1.6, after the protocol."""
_BEFORE_OBJECT = 3  # pickles in such a file: magic number, protocol, system; then the object, and the keys of the storages
_STRIDE = 3  # among the arguments of torch's functions that rebuild a tensor
_DTYPES = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32"}
_DTYPES |= {"Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexDouble": "complex128", "ComplexFloat": "complex64"}
_DTYPES |= {"Untyped": "uint8"}
_TYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_CHUNK, _MAX_AXES = 2**24, 64


class _TorchName(Named):
    """A name of torch's; a call with a size of more than the ``size`` bytes of the file is refused."""

    def __init__(self, path: str, size: int, arguments: tuple[Any, ...] | None = None) -> None:
        super().__init__(path, arguments)
        self._size = size

    def __call__(self, *arguments: Any) -> Any:
        self._check(arguments)
        super().__call__(*arguments)
        return tuple(arguments[0]) if self.path == "torch.Size" else _TorchName(self.path, self._size, arguments)

    def __setstate__(self, state: Any) -> None:
        self._check(state if type(state) is tuple else ())
        super().__setstate__(state)

    def _check(self, arguments: tuple[Any, ...]) -> None:
        sizes = [item for index, item in enumerate(arguments) if type(item) in (tuple, list) and index != _STRIDE]
        for size in (*sizes, [item for item in arguments if type(item) is int]):
            if self.path == "torch.Size" and len(size) > _MAX_AXES:
                raise UnsafeCheckpointError(f"calls torch.Size with {len(size)} lengths")
            if size and all(type(length) is int for length in size) and (len(size) > _MAX_AXES or math.prod(size) > self._size):
                raise UnsafeCheckpointError(f"calls {self.path} with the size {tuple(size)}, in a file of {self._size} bytes")


@dataclass(eq=False)
class _Storage(Named):
    """A storage that a pickle refers to: ``count`` items of ``dtype`` after the first ``start`` items of entry ``key``."""

    key: str
    dtype: torch.dtype
    count: int
    start: int
    contents: Mapping[str, bytearray]
    path, arguments = "torch.storage", None

    def tensor(self, dtype: torch.dtype) -> torch.Tensor:
        """All of it, with one axis."""
        count = self.count * self.dtype.itemsize // dtype.itemsize
        start = self.start * self.dtype.itemsize
        return torch.frombuffer(self.contents[self.key], dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """The tensor that a storage contains; every tensor of one storage shares its memory."""
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or not all(type(x) is int and x >= 0 for x in numbers):
        raise UnsafeCheckpointError(f"has a tensor of shape {shape}, which is none")
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    flat = storage.tensor(dtype)
    if 0 not in shape and last >= len(flat):
        raise UnsafeCheckpointError(f"has a tensor that ends at item {last} of a storage of {len(flat)}")
    return flat.as_strided(shape, stride, offset) if 0 not in shape else flat.new_empty(shape)


def _rebuild_v3(storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *more: Any) -> torch.Tensor:
    """With a dtype that has no storage of its own; the arguments before it are requires_grad and hooks."""
    if more[2].path not in _TYPES:
        raise UnsafeCheckpointError(f"has a tensor of {more[2].path}, which is no type of numbers")
    return _rebuild(storage, offset, shape, stride, _TYPES[more[2].path])


_REBUILD = "torch._utils._rebuild_"
_CALLS: Makers = CALLS | {
    f"{_REBUILD}tensor": lambda call: _rebuild(*call.arguments, call.arguments[0].dtype),
    f"{_REBUILD}tensor_v2": lambda call: _rebuild(*call.arguments[:4], call.arguments[0].dtype),
    f"{_REBUILD}tensor_v3": lambda call: _rebuild_v3(*call.arguments),
    f"{_REBUILD}parameter": lambda call: call.arguments[0],
    f"{_REBUILD}parameter_with_state": lambda call: call.arguments[0],
    f"{_REBUILD}from_type_v2": lambda call: _CALLS[call.arguments[0].path](Named("", call.arguments[2])),
}


class _Unpickler(RestrictedUnpickler):
    """Reads a pickle of torch and refuses claims of more memory than the file holds.

    Args:
        file: positioned at the start of a pickle.
        size: bytes of the file, the limit for the size of any tensor.
        contents: bytes of each storage by key; they may be filled in afterwards if ``limit`` is None.
        limit: bytes of a storage by its key; None where they are not known yet.
    """

    def __init__(self, file: BinaryIO, size: int, contents: Mapping[str, bytearray], limit: Callable[[str], int] | None = None) -> None:
        super().__init__(file)
        self._size, self._contents, self._limit = size, contents, limit
        self.claims: dict[str, tuple[torch.dtype, int]] = {}

    def find_class(self, module: str, name: str) -> Named:
        path = f"{module}.{name}"
        return _TorchName(path, self._size) if path.startswith("torch.") else super().find_class(module, name)

    def persistent_load(self, key: Any) -> Any:
        if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or type(key[2]) is not str or type(key[4]) is not int:
            return super().persistent_load(key)
        kind = key[1].path.rpartition(".")[2].removesuffix("Storage")
        if kind not in _DTYPES:
            raise NotPlainError(f"has a storage of {key[1].path}; expected plain numbers. {ADVICE}")
        dtype = getattr(torch, _DTYPES[kind])
        claimed = key[4] * dtype.itemsize
        limit = self._size if self._limit is None else self._limit(key[2])
        if not 0 <= claimed <= limit:
            raise UnsafeCheckpointError(f"has a tensor that claims {claimed} bytes, where there are {limit}")
        self.claims.setdefault(key[2], (dtype, key[4]))
        _, start, count = key[5] if len(key) > 5 and key[5] else ("", 0, key[4])  # part of a storage, in the oldest files
        if not 0 <= start <= start + count <= key[4]:
            raise UnsafeCheckpointError(f"has a view of items {start} to {start + count} of a storage of {key[4]}")
        return _Storage(key[2], dtype, count, start, self._contents)


def read_torch_zip(archive: zipfile.ZipFile, size: int) -> Any:
    """The plain content of a torch file of ``size`` bytes. The checksums of all entries are compared."""
    entries = archive.infolist()
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsafeCheckpointError(f"it is a TorchScript archive, which holds code. {ADVICE}")
    found = [entry.filename for entry in entries if entry.filename.rpartition("/")[2].lower() == "data.pkl"]
    if len(found) != 1 or not found[0].endswith("data.pkl"):
        raise UnsafeCheckpointError("it is a zip file without a checkpoint: neither data.pkl of torch nor arrays of numpy")
    folder = found[0].removesuffix("data.pkl")
    contents = read_entries(archive)
    if contents.get(f"{folder}byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
        raise UnsafeCheckpointError("it was written by a machine of another byte order. Save it again on one of this kind")
    storages = {name.removeprefix(f"{folder}data/"): content for name, content in contents.items() if name.startswith(f"{folder}data/")}
    value = _Unpickler(io.BytesIO(contents[found[0]]), size, storages, lambda key: len(storages.get(key, b""))).load()
    return plain(value, size, _CALLS)


def read_entries(archive: zipfile.ZipFile) -> dict[str, bytearray]:
    """Name -> content of all entries of an archive.

    Raises UnsafeCheckpointError: an entry does not have the checksum that was stored with it, two entries have one name (case is ignored),
    or something precedes the first one, as in a file with two lists of contents.
    """
    entries = archive.infolist()
    if len({entry.filename.lower() for entry in entries}) < len(entries) or min(entry.header_offset for entry in entries):
        raise UnsafeCheckpointError("it is a zip file with two lists of contents, or with two entries of one name")
    unchecked = not any(entry.CRC for entry in entries)  # torch.serialization.set_crc32_options(False)
    contents = {}
    for entry in entries:
        content = contents[entry.filename] = bytearray(entry.file_size)
        if unchecked:
            del entry.CRC  # without it, zipfile does not compare
        try:
            with archive.open(entry) as file, memoryview(content) as view:
                done = 0
                while read := file.readinto(view[done : done + _CHUNK]):
                    done += read
        except zipfile.BadZipFile as error:
            raise UnsafeCheckpointError(
                f"its entry {entry.filename} is damaged ({error}): get the file again, or take another checkpoint"
            ) from error
        if done != len(content):
            raise UnsafeCheckpointError(f"its entry {entry.filename} is cut short or damaged")
    return contents


def read_legacy_torch(file: BinaryIO) -> Any:
    """The plain content of a file from before torch 1.6, or of ``torch.save(..., _use_new_zipfile_serialization=False)``."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        storages: dict[str, bytearray] = {}
        for _ in range(_BEFORE_OBJECT):
            _Unpickler(content, len(content), {}).load()
        unpickler = _Unpickler(content, len(content), storages)
        value = unpickler.load()
        for key in _Unpickler(content, len(content), {}).load():
            dtype, count = unpickler.claims[key]
            # Each storage is its number of items, in eight bytes, and the items.
            found = int.from_bytes(content.read(8), "little")
            if found != count:
                raise UnsafeCheckpointError(f"has a storage of {found} items where {count} are claimed")
            storages[key] = bytearray(content.read(count * dtype.itemsize))
        return plain(value, len(content), _CALLS)
