"""Reading checkpoint files that anyone may have written: no file can run code.

The kind of a file follows from its content. Files of ``torch.save`` are inspected first and then read by torch with ``weights_only``;
pickles, alone or in numpy's files, are read by an unpickler that knows only numpy arrays and plain containers
(:mod:`detcon_d2.checkpoint.safe_load.pickles`); safetensors cannot hold code.
"""

import io
import json
import math
import mmap
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch

from detcon_d2.checkpoint.safe_load import pickles
from detcon_d2.checkpoint.safe_load.pickles import Named, UnsafeCheckpointError, check_keys, check_shape, read_pickle, refused_name

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_OTHER_FILES = (
    (rb"$", "the file is empty, so cut short or damaged on its way here"),
    (rb"(\xef\xbb\xbf)?\s*<", "this looks like a web page, perhaps the error page of a download: download it again"),
    (rb"(?s).{257}ustar", "it is a tar file: unpack it first"),
    (rb"version https://git-lfs", "it is a pointer of Git LFS, not the file itself: get it with git lfs pull"),
    (rb"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (rb"\x89HDF", "it is an HDF5 file, which is not read"),
)
"""Pattern of the start of a file that is no checkpoint, and what is reported."""
_MAX_HEADER = 100_000_000
"""Bytes of a safetensors header at most; the limit of the format."""
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickled number at the start of files from before torch 1.6, after the protocol."""
_LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages
_STRIDE = 3  # among the arguments of torch's functions that rebuild a tensor
_ITEM_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexDouble": 16, "ComplexFloat": 8}
_SETS = ("collections.Counter", "builtins.set", "__builtin__.set")


_held: dict[tuple[Any, ...], Any] = {}


def load_checkpoint_file(path: str | Path, *, hold: bool | None = False) -> Any:
    """The content of a checkpoint of any kind; the kind follows from the content and not from the file's name.

    Kinds: ``torch.save`` (zip and legacy), pickles of any protocol (Detectron2, Caffe2, haiku), ``.npy`` with a pickled object (the
    released DetCon files), ``.npz`` (a dict of its members), and safetensors: ``{"model": tensors}``, with "metadata" where the header has
    that entry (a JSON object).

    The set-up of a run reads MODEL.WEIGHTS several times: ``hold`` keeps the content in memory for the next call with this file, None
    leaves it as it is, and False lets it go.

    Returns:
        dicts, lists and tuples of tensors (torch files, safetensors), numpy arrays (the others), numbers and text. haiku's mappings and
        argparse.Namespace are dicts, jax arrays are numpy arrays, bfloat16 arrays are float32.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: naming the file, what it asks for or what is wrong with it, and what to do.
    """
    status = os.stat(path)
    identity = os.path.realpath(path), status.st_mtime_ns, status.st_size
    held = _held.get(identity)
    content = _read(path) if held is None else held
    _held.clear()
    if hold or (hold is None and held is not None):
        _held[identity] = content
    return content


def _read(path: str | Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(1024)
    try:
        return _reader(path, start)(path)
    except Exception as error:
        raise UnsafeCheckpointError(f"Cannot load the checkpoint {path}: {_reason(error)}") from error


def require_safetensors() -> ModuleType:
    """The package safetensors; a ValueError that says how to install it where it is absent."""
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ValueError("The .safetensors format needs a package that is not installed: pip install safetensors.") from None
    return safetensors


def _reader(path: str | Path, start: bytes) -> Callable[[str | Path], Any]:
    """The function that reads a file with these first bytes."""
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return _read_npz if names and all(name.endswith(".npy") for name in names) else _read_torch
    if _LEGACY_MAGIC in start[:32]:
        return _read_torch
    if start.startswith(_NPY_MAGIC):
        return _read_npy_checkpoint
    if _is_safetensors(path, start):
        return _read_safetensors
    for pattern, reason in _OTHER_FILES:
        if re.match(pattern, start):
            raise UnsafeCheckpointError(reason)
    return lambda path: read_pickle(Path(path).read_bytes())


def _read_npy(content: bytes) -> Any:
    """The array of an ``.npy`` file, or the plain object that it holds pickled."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise UnsafeCheckpointError(f"it is a numpy file of version {version}; expected {' or '.join(map(str, _NPY_HEADERS))}")
    shape, fortran, dtype = _NPY_HEADERS[version](file)
    if dtype.hasobject:
        return read_pickle(content, file.tell())
    check_shape(shape, dtype.itemsize, len(content) - file.tell())
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C").copy("K")


def _read_npy_checkpoint(path: str | Path) -> Any:
    """The object in an ``.npy`` file; an array of numbers is no checkpoint."""
    value = _read_npy(Path(path).read_bytes())
    if isinstance(value, np.ndarray):
        raise UnsafeCheckpointError(f"it holds one array of shape {value.shape} and type {value.dtype}, not named weights")
    return value


def _read_npz(path: str | Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        _check_zip(archive, path)
        return {name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in archive.namelist()}


def _is_safetensors(path: str | Path, start: bytes) -> bool:
    """Whether the file begins with the length of a header that is a JSON object and ends within the file."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > min(os.path.getsize(path) - 8, _MAX_HEADER):
        return False
    with open(path, "rb") as file:
        file.seek(8)
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            return False


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    try:
        safetensors = require_safetensors()
    except ValueError as error:
        raise UnsafeCheckpointError(str(error)) from error
    with safetensors.safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        extra = {"metadata": json.loads(header["metadata"])} if "metadata" in header else {}
        return {"model": {key: file.get_tensor(key) for key in file.keys()}, **extra}  # noqa: SIM118 (not iterable itself)


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file unsafely."""
    if isinstance(error, UnsafeCheckpointError):
        return str(error)
    asked = re.search(r"(?<!_)GLOBAL\s+([\w.]+)", str(error))
    if asked:
        return str(refused_name(asked[1]))
    if "Unsupported operand" in str(error):
        return "it is pickled in another way than torch.save does by itself: save it again without pickle_protocol"
    return f"it is no checkpoint of this kind, or cut short or damaged ({type(error).__name__})"


def _read_torch(path: str | Path) -> Any:
    """Inspect the file before torch reads it, because torch allocates memory for sizes that a file claims and hashes any key."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _LEGACY_MAGIC in content[:32]:
            for _ in range(_LEGACY_PICKLES):
                _Inspector(content, len(content), None).load()
        else:
            _inspect_zip(path)
        with _only_recorded_calls():
            return pickles.plain(torch.load(path, map_location="cpu", weights_only=True), len(content))


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

    def _check(self, arguments: tuple[Any, ...]) -> None:
        if self.path in _SETS:
            for items in arguments:
                check_keys(items)
            return
        sizes = [item for index, item in enumerate(arguments) if type(item) in (tuple, list) and index != _STRIDE]
        for size in (*sizes, [item for item in arguments if type(item) is int]):
            if size and all(type(length) is int for length in size) and (len(size) > 64 or math.prod(size) > self._size):
                raise UnsafeCheckpointError(f"calls {self.path} with the size {tuple(size)}, in a file of {self._size} bytes")


class _Inspector(pickles.RestrictedUnpickler):
    """Reads a pickle of torch without its tensors and refuses claims of more memory than the file holds.

    Args:
        file: positioned at the start of a pickle.
        size: bytes of all storages together, the limit for the size of any tensor.
        limits: bytes of each storage by key; None where they are not known.
    """

    def __init__(self, file: BinaryIO, size: int, limits: Mapping[str, int] | None) -> None:
        super().__init__(file)
        self._size, self._limits = size, limits

    def find_class(self, module: str, name: str) -> Named:
        path = f"{module}.{name}"
        return _TorchName(path, self._size) if path.startswith("torch.") or path in _SETS else super().find_class(module, name)

    def persistent_load(self, key: Any) -> Any:
        if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or type(key[2]) is not str or type(key[4]) is not int:
            return super().persistent_load(key)
        claimed = key[4] * _ITEM_SIZES.get(key[1].path.rpartition(".")[2].removesuffix("Storage"), 1)
        limit = self._size if self._limits is None else self._limits.get(key[2], 0)
        if not 0 <= claimed <= limit:
            raise UnsafeCheckpointError(f"has a tensor that claims {claimed} bytes, where there are {limit}")
        return Named("storage", ())


def _check_zip(archive: zipfile.ZipFile, path: str | Path) -> None:
    """Refuse an archive that claims far more than the file can hold: more than 100 times its size and more than 256 MiB."""
    size, claimed = Path(path).stat().st_size, sum(entry.file_size for entry in archive.infolist())
    stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
    if stored > size or claimed > max(100 * size, 2**28):
        raise UnsafeCheckpointError(f"it is a zip file of {size} bytes that claims to hold {claimed} bytes")


def _inspect_zip(path: str | Path) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_zip(archive, path)
        found = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UnsafeCheckpointError(f"it is a TorchScript archive, which holds code. {pickles.ADVICE}")
        if len(found) != 1:
            raise UnsafeCheckpointError("it is a zip file without a checkpoint: neither data.pkl of torch nor arrays of numpy")
        folder = found[0].removesuffix("data.pkl") + "data/"
        limits = {entry.filename.removeprefix(folder): entry.file_size for entry in archive.infolist()}
        _Inspector(io.BytesIO(archive.read(found[0])), sum(limits.values()), limits).load()


@contextmanager
def _only_recorded_calls() -> Iterator[None]:
    """Inside, torch takes its own names and records the calls that we know; classes that the process has allowed elsewhere are refused."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        # torch sets the state only of objects whose class is in this list.
        with torch.serialization.safe_globals([(Named, "detcon_d2.Named"), *((Named(path), path) for path in pickles.CALLS)]):
            yield
    finally:
        torch.serialization.add_safe_globals(before)
