"""What a name that the subset lacks answers."""

from collections.abc import Callable
from typing import NoReturn


def missing_name(module: str) -> Callable[[str], NoReturn]:
    """A module-level ``__getattr__`` (PEP 562) for ``module``: ``__getattr__ = missing_name(__name__)``.

    The function returned raises AttributeError "X is not in the subset; install detectron2", so that ``hasattr`` and submodule imports
    keep working.
    """

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(f"{module}.{name} is not in the subset; install detectron2")

    return __getattr__
