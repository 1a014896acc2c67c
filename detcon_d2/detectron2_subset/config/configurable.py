"""Classes and functions that can be called with explicit arguments or with a config."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .config import CfgNode

_USAGE = "Incorrect use of @configurable: decorate __init__ without arguments, or a function with (from_config=function)."


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None) -> Callable:
    """Let a class or a function also be called as ``X(cfg, **overrides)``.

    On ``__init__``: the class has a classmethod ``from_config(cls, cfg, ...)`` that returns the keyword arguments of ``__init__``.
    On a function: ``@configurable(from_config=f)`` with ``f(cfg, ...)`` returning the keyword arguments of the function.
    A call whose first argument, or argument ``cfg``, is a CfgNode is translated; any other call goes through unchanged. Arguments that
    ``from_config`` does not name override what it returns.

    Raises:
        AttributeError: the class has no ``from_config``.
        TypeError: ``from_config`` is no classmethod, or its first parameter is not ``cfg``.
    """
    if init_func is not None:
        assert inspect.isfunction(init_func) and init_func.__name__ == "__init__" and from_config is None, _USAGE
        return _configurable_init(init_func)
    assert callable(from_config), _USAGE
    return functools.partial(_configurable_function, from_config)


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError(f"{type(self).__name__} uses @configurable and must have a classmethod from_config(cls, cfg).")
        if not inspect.ismethod(translate):
            raise TypeError(f"{type(self).__name__}.from_config must be a classmethod.")
        if _called_with_cfg(args, kwargs):
            args, kwargs = (), _explicit_arguments(translate, args, kwargs)
        init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(from_config: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _called_with_cfg(args, kwargs):
            args, kwargs = (), _explicit_arguments(from_config, args, kwargs)
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _called_with_cfg(args: tuple, kwargs: dict[str, Any]) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), CfgNode)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{getattr(from_config, '__qualname__', from_config)} must take 'cfg' as its first argument.")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    passed = {k: v for k, v in kwargs.items() if takes_all or k in parameters}
    overrides = {k: v for k, v in kwargs.items() if k not in passed}
    return {**from_config(*args, **passed), **overrides}
