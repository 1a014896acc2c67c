"""The contract tests run once for each backend that is present."""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest

_PACKAGES = {"subset": "detcon_d2.detectron2_subset", "detectron2": "detectron2"}
_PRESENT = [name for name, package in _PACKAGES.items() if importlib.util.find_spec(package.partition(".")[0]) is not None]


@dataclass(frozen=True)
class Backend:
    """One implementation of Detectron2's API: ``name`` is "subset" or "detectron2"."""

    name: str

    def get(self, module: str = "") -> ModuleType:
        """Return the module at Detectron2's public path ``module``, for example "utils.events"; "" is the package itself."""
        return importlib.import_module(".".join(filter(None, (_PACKAGES[self.name], module))))


@pytest.fixture(params=_PRESENT)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is present."""
    return Backend(request.param)


@pytest.fixture
def subset() -> Backend:
    """The bundled subset."""
    return Backend("subset")


@pytest.fixture
def real() -> Backend:
    """The installed Detectron2, for tests that compare both backends; it skips if Detectron2 is not installed."""
    if "detectron2" not in _PRESENT:
        pytest.skip("detectron2 is not installed, nothing to compare the subset with")
    return Backend("detectron2")


@pytest.fixture
def log_lines() -> Iterator[Callable[[str], list[str]]]:
    """A function: the name of a logger -> a list to which the messages of that logger and its children are appended."""
    added = []

    def watch(name: str) -> list[str]:
        lines: list[str] = []
        handler = logging.Handler(logging.DEBUG)
        handler.emit = lambda record: lines.append(record.getMessage())
        logger = logging.getLogger(name)
        added.append((logger, handler, logger.level))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        return lines

    yield watch
    for logger, handler, level in added:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def clean_loggers() -> Iterator[None]:
    """Restores the loggers that setup_logger of both backends changes."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "subset_test")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        for handler in [handler for handler in logger.handlers if handler not in handlers]:
            logger.removeHandler(handler)
        logger.level, logger.propagate = level, propagate
