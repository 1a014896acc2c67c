"""The refusal of a checkpoint file."""

import reprlib
from typing import Any

ADVICE = "Open it in the environment of its authors and save its state dict alone."


class UnsafeCheckpointError(ValueError):
    """A checkpoint needs more than tensors, arrays and plain containers, or it cannot be read at all."""


def refused_name(path: str) -> UnsafeCheckpointError:
    """The refusal of a class or function that a file names."""
    reason = "only tensors, arrays and plain containers are loaded, because other classes can run code"
    return UnsafeCheckpointError(f"asks for {path}; {reason}. {ADVICE}")


def short(value: Any) -> str:
    """``repr`` of a value from a file; never long, although a small file can hold a value whose full text exceeds the memory."""
    return reprlib.repr(value)
