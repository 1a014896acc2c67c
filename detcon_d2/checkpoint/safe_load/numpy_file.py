"""Checkpoints in numpy's files: ``.npy`` with one pickled object, as DetCon's authors released theirs, and ``.npz``."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from detcon_d2.checkpoint.safe_load.errors import UnsafeCheckpointError
from detcon_d2.checkpoint.safe_load.pickles import read_pickle
from detcon_d2.checkpoint.safe_load.plain import check_shape

NPY_MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy(content: bytes) -> Any:
    """The array of an ``.npy`` file, or the plain object that it holds pickled."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise UnsafeCheckpointError(f"it is a numpy file of version {version}; expected {' or '.join(map(str, _HEADERS))}")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        return read_pickle(content, file.tell())
    check_shape(shape, dtype.itemsize, len(content) - file.tell())
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C").copy("K")


def read_npy_checkpoint(path: str | Path) -> Any:
    """The object in an ``.npy`` file; an array of numbers is no checkpoint."""
    value = read_npy(Path(path).read_bytes())
    if isinstance(value, np.ndarray):
        raise UnsafeCheckpointError(f"it holds one array of shape {value.shape} and type {value.dtype}, not named weights")
    return value


def read_npz(path: str | Path) -> dict[str, Any]:
    """The members of an ``.npz`` file by name."""
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, path)
        return {name.removesuffix(".npy"): read_npy(archive.read(name)) for name in archive.namelist()}


def check_zip(archive: zipfile.ZipFile, path: str | Path) -> None:
    """Refuse an archive that claims far more than the file can hold: more than 100 times its size and more than 256 MiB."""
    size, claimed = Path(path).stat().st_size, sum(entry.file_size for entry in archive.infolist())
    stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
    if stored > size or claimed > max(100 * size, 2**28):
        raise UnsafeCheckpointError(f"it is a zip file of {size} bytes that claims to hold {claimed} bytes")
