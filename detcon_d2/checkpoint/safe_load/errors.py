"""The refusal of a checkpoint file, always with the file's name and a reason that says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADVICE = "Open it in the environment of its authors and save its state dict alone."


class UnsafeCheckpointError(ValueError):
    """A checkpoint asks for more than tensors, arrays and plain containers, or cannot be read at all."""


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into an :class:`UnsafeCheckpointError` that names the file; FileNotFoundError stays."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UnsafeCheckpointError(f"Cannot load the checkpoint {path}: {_reason(error)}") from error


def refused_global(path: str) -> UnsafeCheckpointError:
    """The refusal of a class or function that a file names."""
    return UnsafeCheckpointError(
        f"asks for {path}; only tensors, arrays and plain containers are loaded, for others can run code. " + ADVICE
    )


def _reason(error: Exception) -> str:
    """What is wrong, without torch's advice to load the file unsafely."""
    if isinstance(error, UnsafeCheckpointError):
        return str(error)
    asked = re.search(r"GLOBAL\s+([\w.]+)", str(error))
    if asked:
        return str(refused_global(asked[1]))
    if "Unsupported operand" in str(error):
        return "it is pickled in another way than torch.save does by itself: save it again without pickle_protocol"
    return f"it is no checkpoint of this kind, or cut short or damaged ({type(error).__name__})"
