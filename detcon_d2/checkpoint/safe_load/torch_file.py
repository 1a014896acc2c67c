"""Files of ``torch.save``: inspected first, then read by torch with ``weights_only``."""

import io
import math
import mmap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from detcon_d2.checkpoint.safe_load.pickles import RestrictedUnpickler
from detcon_d2.checkpoint.safe_load.plain import ADVICE, CALLS, Named, UnsafeCheckpointError, check_keys, plain

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickled number at the start of files from before torch 1.6, after the protocol."""

_LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages
_STRIDE = 3  # among the arguments of torch's functions that rebuild a tensor
_ITEM_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexDouble": 16, "ComplexFloat": 8}
_SETS = ("collections.Counter", "builtins.set", "__builtin__.set")


def read_torch(path: str | Path) -> Any:
    """The tensors and plain values of a zip or legacy file of ``torch.save``, on the CPU; argparse.Namespace becomes a dict.

    The file is inspected before torch reads it, because torch allocates memory for sizes that a file claims and hashes any key.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if LEGACY_MAGIC in content[:32]:
            for _ in range(_LEGACY_PICKLES):
                _Inspector(content, len(content), None).load()
        else:
            _inspect_zip(path)
        with _only_recorded_calls():
            return plain(torch.load(path, map_location="cpu", weights_only=True), len(content))


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


class _Inspector(RestrictedUnpickler):
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


def check_zip(archive: zipfile.ZipFile, path: str | Path) -> None:
    """Refuse an archive that claims far more than the file can hold: more than 100 times its size and more than 256 MiB."""
    size, claimed = Path(path).stat().st_size, sum(entry.file_size for entry in archive.infolist())
    stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
    if stored > size or claimed > max(100 * size, 2**28):
        raise UnsafeCheckpointError(f"it is a zip file of {size} bytes that claims to hold {claimed} bytes")


def _inspect_zip(path: str | Path) -> None:
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, path)
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UnsafeCheckpointError(f"it is a TorchScript archive, which holds code. {ADVICE}")
        if len(pickles) != 1:
            raise UnsafeCheckpointError("it is a zip file without a checkpoint: neither data.pkl of torch nor arrays of numpy")
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        limits = {entry.filename.removeprefix(folder): entry.file_size for entry in archive.infolist()}
        _Inspector(io.BytesIO(archive.read(pickles[0])), sum(limits.values()), limits).load()


@contextmanager
def _only_recorded_calls() -> Iterator[None]:
    """Inside, torch takes its own names and records the calls that we know; classes that the process has allowed elsewhere are refused."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        # torch sets the state only of objects whose class is in this list.
        with torch.serialization.safe_globals([(Named, "detcon_d2.Named"), *((Named(path), path) for path in CALLS)]):
            yield
    finally:
        torch.serialization.add_safe_globals(before)
