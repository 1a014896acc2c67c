"""Reading checkpoint files that anyone may have written: no file can run code.

The kind of a file follows from its content. Pickles, alone or in files of numpy and of ``torch.save``, are read by an unpickler that knows
only arrays, tensors and plain containers (:mod:`detcon_d2.checkpoint.safe_load.pickles`); safetensors cannot hold code. A file is opened
once, so that no other file can take its place between inspection and reading.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from detcon_d2.checkpoint.safe_load.pickles import UnsafeCheckpointError, check_shape
from detcon_d2.checkpoint.safe_load.torch_files import LEGACY_MAGIC, read_legacy_torch, read_torch_zip
from detcon_d2.checkpoint.safe_load.unpickler import read_pickle

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


_held: dict[tuple[Any, ...], Any] = {}


def load_checkpoint_file(path: str | Path, *, hold: bool | None = False) -> Any:
    """The content of a checkpoint of any kind; the kind follows from the content and not from the file's name.

    Kinds: ``torch.save`` (zip and legacy), pickles of any protocol (Detectron2, Caffe2, haiku), ``.npy`` with a pickled object (the
    released DetCon files), ``.npz`` (a dict of its members), and safetensors: ``{"model": tensors}``, with "metadata" where the header has
    that entry (a JSON object).

    The set-up of a run reads MODEL.WEIGHTS several times: ``hold`` keeps the content in memory for the next call with this file, None
    leaves it as it is, and False lets it go.

    Other entries next to the weights (options, dates, paths, objects of other packages) are left out, without being built;
    the log names them. The checksums in a zip file are compared.

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
        file.seek(0)
        try:
            return _reader(file, start)(file)
        except UnsafeCheckpointError as error:
            raise UnsafeCheckpointError(f"Cannot load the checkpoint {path}: {error}") from error
        except Exception as error:
            reason = f"it is no checkpoint of this kind, or cut short or damaged ({type(error).__name__})"
            raise UnsafeCheckpointError(f"Cannot load the checkpoint {path}: {reason}") from error


def require_safetensors() -> ModuleType:
    """The package safetensors; a ValueError that says how to install it where it is absent."""
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ValueError("The .safetensors format needs a package that is not installed: pip install safetensors.") from None
    return safetensors


def _reader(file: BinaryIO, start: bytes) -> Callable[[BinaryIO], Any]:
    """The function that reads a file with these first bytes."""
    if start.startswith(b"PK"):
        return _read_zip
    if LEGACY_MAGIC in start[:32]:
        return read_legacy_torch
    if start.startswith(_NPY_MAGIC):
        return _read_npy_checkpoint
    if _safetensors_header(file, start) is not None:
        return _read_safetensors
    for pattern, reason in _OTHER_FILES:
        if re.match(pattern, start):
            raise UnsafeCheckpointError(reason)
    return lambda file: read_pickle(file.read())


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


def _read_npy_checkpoint(file: BinaryIO) -> Any:
    """The object in an ``.npy`` file; an array of numbers is no checkpoint."""
    value = _read_npy(file.read())
    if isinstance(value, np.ndarray):
        raise UnsafeCheckpointError(f"it holds one array of shape {value.shape} and type {value.dtype}, not named weights")
    return value


def _read_zip(file: BinaryIO) -> Any:
    """The members of an ``.npz`` file, or the content of a torch file.

    An archive that claims far more than the file can hold is refused: more than 100 times its size and more than 256 MiB.
    """
    with zipfile.ZipFile(file) as archive:
        size, claimed = _size(file), sum(entry.file_size for entry in archive.infolist())
        stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
        if stored > size or claimed > max(100 * size, 2**28):
            raise UnsafeCheckpointError(f"it is a zip file of {size} bytes that claims to hold {claimed} bytes")
        names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return {name.removesuffix(".npy"): _read_npy(archive.read(name)) for name in names}
        return read_torch_zip(archive, size)


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def _safetensors_header(file: BinaryIO, start: bytes) -> dict[str, Any] | None:
    """The header, where the file begins with the length of a JSON object that ends within the file."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > min(_size(file) - 8, _MAX_HEADER):
        return None
    file.seek(8)
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return None
    finally:
        file.seek(0)
    return header if isinstance(header, dict) else None


def _read_safetensors(file: BinaryIO) -> dict[str, Any]:
    try:
        safetensors = require_safetensors()
    except ValueError as error:
        raise UnsafeCheckpointError(str(error)) from error
    content = file.read()
    header = _safetensors_header(file, content[:9]) or {}
    extra, tensors = header.pop("__metadata__", {}), safetensors.torch.load(content)
    metadata = {"metadata": json.loads(extra["metadata"])} if "metadata" in extra else {}
    return {"model": {key: tensors[key] for key in header}, **metadata}
