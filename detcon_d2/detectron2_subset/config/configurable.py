"""Classes that can be created from explicit arguments or from a config."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .config import CfgNode


def configurable(init_func: Callable) -> Callable:
    """Decorate ``__init__`` so that a class can also be called as ``X(cfg, **overrides)``.

    The class needs a classmethod ``from_config(cls, cfg, ...)`` that returns the keyword arguments of ``__init__``. It is used if the
    first argument, or the argument ``cfg``, is a CfgNode; any other call is passed on unchanged. Keyword arguments that ``from_config``
    does not have as parameters override what it returns.

    Raises:
        AttributeError: the class has no ``from_config``.
        TypeError: ``from_config`` is not a classmethod, or its first parameter is not ``cfg``.
    """
    assert inspect.isfunction(init_func) and init_func.__name__ == "__init__", "Incorrect use of @configurable: it decorates __init__ only."

    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} uses @configurable and must have a classmethod from_config(cls, cfg).")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        if isinstance(args[0] if args else kwargs.get("cfg"), CfgNode):
            args, kwargs = (), _explicit_arguments(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as its first argument.")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    passed = {k: v for k, v in kwargs.items() if takes_all or k in parameters}
    overrides = {k: v for k, v in kwargs.items() if k not in passed}
    return {**from_config(*args, **passed), **overrides}
