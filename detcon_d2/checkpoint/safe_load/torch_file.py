"""Files of ``torch.save``: inspected first, then read by torch with ``weights_only``."""

import functools
import io
import math
import mmap
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from detcon_d2.checkpoint.safe_load.errors import ADVICE, UnsafeCheckpointError
from detcon_d2.checkpoint.safe_load.numpy_file import check_zip
from detcon_d2.checkpoint.safe_load.stand_ins import STAND_INS, StandIn, plain
from detcon_d2.checkpoint.safe_load.unpickle import RestrictedUnpickler

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
"""The pickled number at the start of files from before torch 1.6, after the protocol."""

_LEGACY_PICKLES = 5  # magic number, protocol, system, object, keys of the storages
_STRIDE = 3  # among the arguments of torch's functions that rebuild a tensor
_ITEM_SIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexDouble": 16, "ComplexFloat": 8}
_TORCH_TAKES = {"collections.Counter", "builtins.set", "__builtin__.set"}


def read_torch(path: str | Path) -> Any:
    """The tensors and plain values of a zip or legacy file of ``torch.save``, on the CPU; argparse.Namespace becomes a dict.

    The file is inspected before torch sees it: torch takes memory for the sizes that a file claims, releases before 2.6 without looking
    at what it holds, and those could be made to run code by the tar files of torch 0.1, which are refused.
    """
    with open(path, "rb") as file:
        start = file.read(32)
    if start.startswith(b"PK"):
        _inspect_zip(path)
    elif LEGACY_MAGIC in start:
        _inspect_legacy(path)
    else:
        raise ValueError("no file of torch.save")
    with _stand_ins_known_to_torch():
        return plain(torch.load(path, map_location="cpu", weights_only=True))


class _Named(StandIn):
    """What torch's pickles name, doing nothing; a call with a size of more than the file holds is refused."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size

    def __call__(self, *arguments: Any) -> Any:
        if self.path == "torch.Size":
            return arguments[0]
        sizes = [item for index, item in enumerate(arguments) if _is_size(item) and index != _STRIDE]
        for size in (*sizes, [item for item in arguments if type(item) is int]):
            if math.prod(size) > self.size:
                raise UnsafeCheckpointError(f"calls {self.path} with the size {tuple(size)}, in a file of {self.size} bytes")
        return {} if self.path == "collections.Counter" else _Named(self.path, self.size)

    def __setstate__(self, state: Any) -> None:
        if type(state) is tuple:
            self(*state)


def _is_size(item: Any) -> bool:
    return type(item) in (tuple, list) and bool(item) and all(type(length) is int for length in item)


class _Inspector(RestrictedUnpickler):
    """Goes through a pickle of torch and compares what it claims with ``limits``, the bytes of each storage by key."""

    def __init__(self, file: BinaryIO, size: int, limits: Mapping[str, int] | None) -> None:
        super().__init__(file)
        self._size, self._limits = size, limits

    def find(self, path: str) -> Any:
        if path.startswith("torch.") or path in _TORCH_TAKES:
            return _Named(path, self._size)
        return super().find(path)

    def persistent(self, key: Any) -> Any:
        if type(key) is not tuple or len(key) < 5 or key[0] != "storage" or type(key[4]) is not int:
            return super().persistent(key)
        kind = key[1].path.rpartition(".")[2].removesuffix("Storage")
        claimed = key[4] * _ITEM_SIZES.get(kind, 1)
        limit = self._size if self._limits is None else self._limits.get(key[2], 0)
        if not 0 <= claimed <= limit:
            raise UnsafeCheckpointError(f"has a tensor that claims {claimed} bytes, where there are {limit}")
        return _Named("storage", self._size)


def _inspect_zip(path: str | Path) -> None:
    with zipfile.ZipFile(path) as archive:
        check_zip(archive, path)
        pickles = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise UnsafeCheckpointError("it is a TorchScript archive, which holds code. " + ADVICE)
        if len(pickles) != 1:
            raise UnsafeCheckpointError("it is a zip file without a checkpoint: neither data.pkl of torch nor arrays of numpy")
        folder = pickles[0].removesuffix("data.pkl") + "data/"
        limits = {entry.filename.removeprefix(folder): entry.file_size for entry in archive.infolist()}
        _Inspector(io.BytesIO(archive.read(pickles[0])), sum(limits.values()), limits).load()


def _inspect_legacy(path: str | Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(_LEGACY_PICKLES):
            _Inspector(content, len(content), None).load()


@contextmanager
def _stand_ins_known_to_torch() -> Iterator[None]:
    """Inside, torch takes our stand-ins beside its own names, and no class that the process has allowed elsewhere."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_torch_stand_ins())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


@functools.cache
def _torch_stand_ins() -> list[Callable[..., Any]]:
    """One object for each name, since torch finds a class by its own ``__module__`` and ``__qualname__``."""
    return [_renamed(path, stand_in) for path, stand_in in STAND_INS.items()]


def _renamed(path: str, stand_in: Callable[..., Any]) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    if isinstance(stand_in, type):
        return type(name, (stand_in,), {"__module__": module})
    renamed = functools.partial(stand_in)
    renamed.__module__, renamed.__name__, renamed.__qualname__ = module, name, name
    return renamed
