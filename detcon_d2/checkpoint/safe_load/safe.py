"""Reading checkpoint files that could come from anyone: no file can run code.

A file's kind is told from its content. torch files load with ``weights_only``; pickles, alone or in numpy's files, through a machine that
knows numpy arrays and plain containers only (:mod:`detcon_d2.checkpoint.safe_load.unpickle`); safetensors cannot hold code.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from detcon_d2.checkpoint.safe_load.errors import UnsafeCheckpointError, naming
from detcon_d2.checkpoint.safe_load.numpy_file import NPY_MAGIC, read_npy_checkpoint, read_npz, read_pickle
from detcon_d2.checkpoint.safe_load.torch_file import LEGACY_MAGIC, read_torch

__all__ = [
    "UnsafeCheckpointError",
    "load_checkpoint_file",
    "load_pickle",
    "load_safetensors",
    "load_torch",
    "require_safetensors",
    "write_atomically",
]

_OTHER_FILES = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file itself: get it with git lfs pull",
    b"\x1f\x8b": "it is compressed by gzip: unpack it first",
    b"\x89HDF": "it is an HDF5 file, which is not read",
}


def load_pickle(path: str | Path) -> Any:
    """The object in a pickle of numpy arrays and plain containers (latin-1 for Python 2's strings, as Caffe2's files need).

    Raises:
        UnsafeCheckpointError: naming the file and the class it asks for, or why it cannot be read.
    """
    content = Path(path).read_bytes()
    with naming(path):
        return read_pickle(io.BytesIO(content))


def load_torch(path: str | Path) -> Any:
    """The object in a file of ``torch.save``, on the CPU; tensors, numpy scalars and plain containers only.

    Raises:
        UnsafeCheckpointError: naming the file and why it is refused.
    """
    with naming(path):
        return read_torch(path)


def load_safetensors(path: str | Path) -> dict[str, Any]:
    """``{"model": tensors}`` of a safetensors file, and "metadata" where its header has that entry (a JSON object).

    Raises:
        ValueError: safetensors is not installed.
        UnsafeCheckpointError: naming the file and why it cannot be read.
    """
    safe_open = require_safetensors().safe_open
    with naming(path):
        _check_safetensors_header(path)
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            extra = {"metadata": json.loads(header["metadata"])} if "metadata" in header else {}
            return {"model": {key: file.get_tensor(key) for key in file.keys()}, **extra}  # noqa: SIM118 (not iterable itself)


def _check_safetensors_header(path: str | Path) -> None:
    with open(path, "rb") as file:
        claimed, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
    if claimed > size - 8:
        raise UnsafeCheckpointError(f"its header claims {claimed} bytes, in a file of {size}: cut short, damaged, or no safetensors file")


def require_safetensors() -> ModuleType:
    """The package safetensors; ValueError that says how to install it where it is absent."""
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ValueError("The .safetensors format needs a package that is not installed: pip install safetensors.") from None
    return safetensors


def load_checkpoint_file(path: str | Path) -> Any:
    """The content of a checkpoint of any kind, told from the file itself and not from its name.

    Kinds: ``torch.save`` (zip and legacy), pickles of any protocol (Detectron2, Caffe2, haiku), ``.npy`` with a pickled object (the
    released DetCon files), ``.npz`` (a dict of its members), safetensors (:func:`load_safetensors`).

    Returns:
        dicts, lists and tuples of tensors (torch files, safetensors), numpy arrays (the others), numbers and text. haiku's mappings and
        argparse.Namespace are dicts, jax arrays are numpy arrays, bfloat16 arrays are float32.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: naming the file, what it asks for or what is wrong with it, and what to do.
    """
    with open(path, "rb") as file:
        start = file.read(1024)
        size = file.seek(0, os.SEEK_END)
    with naming(path):
        load = _loader(start, size)
    return load(path)


def _loader(start: bytes, size: int) -> Callable[[str | Path], Any]:
    """By the first bytes of a file of ``size`` bytes."""
    if start.startswith(b"PK"):
        return _load_zip
    if LEGACY_MAGIC in start[:32]:
        return load_torch
    if start.startswith(NPY_MAGIC):
        return _load_npy
    if start[8:9] == b"{" and (start[4:8] == bytes(4) or start[:1] != b"\x80"):  # the length of a header in JSON comes first
        return load_safetensors
    if not size:
        raise UnsafeCheckpointError("the file is empty, so cut short or damaged on its way here")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise UnsafeCheckpointError("this looks like a web page, perhaps the error page of a download: download it again")
    if start[257:262] == b"ustar":
        raise UnsafeCheckpointError("it is a tar file: unpack it first")
    for magic, reason in _OTHER_FILES.items():
        if start.startswith(magic):
            raise UnsafeCheckpointError(reason)
    return load_pickle


def _load_zip(path: str | Path) -> Any:
    with naming(path), zipfile.ZipFile(path) as archive:
        arrays = all(name.endswith(".npy") for name in archive.namelist()) and bool(archive.namelist())
    if not arrays:
        return load_torch(path)
    with naming(path):
        return read_npz(path)


def _load_npy(path: str | Path) -> Any:
    with naming(path):
        return read_npy_checkpoint(path)


def write_atomically(path: str | Path, write: Callable[[BinaryIO], None]) -> None:
    """Call ``write(file)`` on a temporary file in the same folder and move it to ``path`` when it is complete and on disk."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
