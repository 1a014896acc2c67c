"""Reading checkpoint files that anyone may have written: no file can run code.

The kind of a file follows from its content. torch files are read with ``weights_only``; pickles, alone or in numpy's files, by an unpickler
that knows only numpy arrays and plain containers (:mod:`detcon_d2.checkpoint.safe_load.pickles`); safetensors cannot hold code.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from detcon_d2.checkpoint.safe_load.pickles import read_pickle
from detcon_d2.checkpoint.safe_load.plain import UnsafeCheckpointError, check_shape, refused_name
from detcon_d2.checkpoint.safe_load.torch_file import LEGACY_MAGIC, check_zip, read_torch

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


def load_checkpoint_file(path: str | Path) -> Any:
    """The content of a checkpoint of any kind; the kind follows from the content and not from the file's name.

    Kinds: ``torch.save`` (zip and legacy), pickles of any protocol (Detectron2, Caffe2, haiku), ``.npy`` with a pickled object (the
    released DetCon files), ``.npz`` (a dict of its members), and safetensors: ``{"model": tensors}``, with "metadata" where the header has
    that entry (a JSON object).

    Returns:
        dicts, lists and tuples of tensors (torch files, safetensors), numpy arrays (the others), numbers and text. haiku's mappings and
        argparse.Namespace are dicts, jax arrays are numpy arrays, bfloat16 arrays are float32.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: naming the file, what it asks for or what is wrong with it, and what to do.
    """
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
        return _read_npz if names and all(name.endswith(".npy") for name in names) else read_torch
    if LEGACY_MAGIC in start[:32]:
        return read_torch
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
        check_zip(archive, path)
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
