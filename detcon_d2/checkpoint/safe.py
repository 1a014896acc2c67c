"""Reading checkpoint files that could come from anyone: no file can run code.

torch files load with ``weights_only``; Detectron2's ``.pkl`` through an unpickler that knows numpy arrays and plain containers only;
safetensors cannot hold code.
"""

import io
import json
import os
import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import torch

# What numpy arrays (old and new module paths) and ordered dicts need; everything else is refused.
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


class UnsafeCheckpointError(ValueError):
    """A checkpoint asks for more than tensors, arrays and plain containers, or cannot be read at all."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise UnsafeCheckpointError(
                f"asks for {module}.{name}; only numpy arrays and plain containers are loaded, since a pickle can run any code"
            )
        return super().find_class(module, name)


def load_pickle(path: str | Path) -> Any:
    """The object in a pickle of numpy arrays and plain containers (latin-1 for Python 2's strings, as Caffe2's files need).

    Raises:
        UnsafeCheckpointError: naming the file and the class it asks for, or why it cannot be read.
    """
    with open(path, "rb") as file:
        return _named(path, lambda: _RestrictedUnpickler(io.BytesIO(file.read()), encoding="latin1").load())


def load_torch(path: str | Path) -> Any:
    """The object in a file of ``torch.save``, on the CPU; tensors and plain containers only.

    Raises:
        UnsafeCheckpointError: naming the file and why it is refused.
    """
    return _named(path, lambda: torch.load(path, map_location="cpu", weights_only=True))


def load_safetensors(path: str | Path) -> dict[str, Any]:
    """``{"model": tensors}`` of a safetensors file, and "metadata" where its header has that entry (a JSON object).

    Raises:
        ValueError: safetensors is not installed.
        UnsafeCheckpointError: naming the file and why it cannot be read.
    """
    safe_open = require_safetensors().safe_open

    def load() -> dict[str, Any]:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            extra = {"metadata": json.loads(header["metadata"])} if "metadata" in header else {}
            return {"model": {key: file.get_tensor(key) for key in file.keys()}, **extra}  # noqa: SIM118 (not iterable itself)

    return _named(path, load)


def require_safetensors() -> ModuleType:
    """The package safetensors; ValueError that says how to install it where it is absent."""
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ValueError("The .safetensors format needs a package that is not installed: pip install safetensors.") from None
    return safetensors


def load_checkpoint_file(path: str | Path) -> Any:
    """:func:`load_pickle` for ``.pkl``, :func:`load_safetensors` for ``.safetensors``, :func:`load_torch` for everything else."""
    load = {".pkl": load_pickle, ".safetensors": load_safetensors}.get(Path(path).suffix, load_torch)
    return load(path)


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


def _named(path: str | Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UnsafeCheckpointError(f"Cannot load the checkpoint {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file unsafely."""
    if isinstance(error, UnsafeCheckpointError):
        return str(error)
    asked = re.search(r"GLOBAL\s+([\w.]+)", str(error))
    if asked:
        return f"asks for {asked[1]}; only tensors and plain containers are loaded, since a checkpoint can run any code"
    return f"it is no checkpoint of this kind, or cut short or damaged ({type(error).__name__})"
