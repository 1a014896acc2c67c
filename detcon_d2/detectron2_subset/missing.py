"""The error for a name that the subset lacks."""

from collections.abc import Callable
from typing import NoReturn


def missing_name(module: str) -> Callable[[str], NoReturn]:
    """Make a module-level ``__getattr__`` (PEP 562) for ``module``: ``__getattr__ = missing_name(__name__)``.

    The returned function raises AttributeError "X is not in the subset; install detectron2". AttributeError keeps ``hasattr`` and the
    import of submodules working.
    """

    def __getattr__(name: str) -> NoReturn:
        raise AttributeError(f"{module}.{name} is not in the subset; install detectron2")

    return __getattr__
