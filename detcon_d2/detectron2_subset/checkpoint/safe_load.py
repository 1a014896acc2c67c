"""Reading checkpoint files without running code from them."""

import pickle
from typing import Any

import torch

# All names that a pickle of numpy arrays in dicts contains, with numpy 1 and 2 and with every pickle protocol.
_FUNCTIONS = ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
_ALLOWED = {f"numpy.{core}.{name}" for core in ("core", "_core") for name in _FUNCTIONS}
_ALLOWED |= {"numpy.ndarray", "numpy.dtype", "collections.OrderedDict", "_codecs.encode"}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def load_file(path: str) -> Any:
    """Return the content of a checkpoint: numpy arrays and plain values of a ``.pkl`` file, else tensors and plain values, on the CPU.

    Raises:
        ValueError: the file names a class or function that could run code, or is damaged.
    """
    try:
        if not path.endswith(".pkl"):
            return torch.load(path, map_location="cpu", weights_only=True)
        with open(path, "rb") as file:
            # Files from Python 2 contain arrays as byte strings, which latin1 decodes byte by byte.
            return _ArrayUnpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path} is not loaded: {error or 'it is cut short'}. Expected a file of tensors, numpy arrays and plain values only, which "
            "cannot run code. If you trust its source, load it by hand and save its weights alone."
        ) from error
