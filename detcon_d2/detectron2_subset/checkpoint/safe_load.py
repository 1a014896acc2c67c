"""Reading checkpoint files without running code from them."""

import pickle
from typing import Any

import torch

# What pickles of dicts of numpy arrays name, in numpy 1 and 2 and in every pickle protocol.
_NUMPY_FUNCTIONS = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
_ALLOWED = {f"numpy.{core}.{name}" for core in ("core", "_core") for name in _NUMPY_FUNCTIONS}
_ALLOWED |= {"numpy.ndarray", "numpy.dtype", "collections.OrderedDict", "_codecs.encode"}
_ALLOWED |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray", "complex")}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def load_pickle(path: str) -> Any:
    """The content of a ``.pkl`` file made of dicts, lists, plain values and numpy arrays.

    Raises:
        ValueError: the file names anything else, which could run code, or is no pickle.
    """
    with open(path, "rb") as file:
        try:
            # Files from Python 2 hold arrays as byte strings, which latin1 maps one to one.
            return _ArrayUnpickler(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise ValueError(_refusal(path, "numpy arrays and plain values", error)) from error


def load_torch(path: str) -> Any:
    """The content of a file written by ``torch.save``, on the CPU: tensors and plain values only; ValueError for anything else."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, "tensors and plain values", error)) from error


def _refusal(path: str, expected: str, error: Exception) -> str:
    return (
        f"{path} is not loaded: {error or 'it is cut short'}. Expected a file of {expected} only, which cannot run code. "
        "If you trust its source, load it by hand and save its weights alone."
    )
