"""Loggers for the terminal and for files."""

import functools
import logging
import math
import os
import sys
import time

from termcolor import colored

from .file_io import PathManager

_DATE = "%m/%d %H:%M:%S"


class _ColorFormatter(logging.Formatter):
    def __init__(self, name: str) -> None:
        self._name, self._abbreviation = name, "d2" if name == "detectron2" else name
        super().__init__(colored("[%(asctime)s %(short)s]: ", "green") + "%(message)s", _DATE)

    def format(self, record: logging.LogRecord) -> str:
        child = record.name.startswith(self._name + ".")
        record.short = (self._abbreviation + record.name[len(self._name) :]).lstrip(".") if child else record.name
        text = super().format(record)
        return f"{colored(record.levelname, 'red')} {text}" if record.levelno >= logging.WARNING else text


@functools.cache
def setup_logger(output: str | None = None, distributed_rank: int = 0, *, name: str = "detectron2") -> logging.Logger:
    """Set up the logger ``name`` at level DEBUG. It writes to the terminal (rank 0 only) and to a file.

    Args:
        output: a file (``.txt`` or ``.log``), or a folder in which ``log.txt`` is written; None writes no file. Ranks above 0 append
            ``.rank<r>`` to the file name.
        distributed_rank: the rank of this process.
        name: the root module name of the logger. The terminal abbreviates "detectron2" to "d2" in the names of child loggers.

    A second call with the same arguments returns the same logger and adds no handlers.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", _DATE)
    if distributed_rank == 0:
        _add_handler(logger, logging.StreamHandler(sys.stdout), _ColorFormatter(name))
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path += f".rank{distributed_rank}" if distributed_rank > 0 else ""
        PathManager.mkdirs(os.path.dirname(path) or ".")
        _add_handler(logger, logging.FileHandler(path), plain)
    return logger


def _add_handler(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setFormatter(formatter)
    logger.addHandler(handler)


_last_times: dict[tuple[str, int], float] = {}


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log ``msg`` from the calling line, except if that line logged in the last ``n`` seconds; ``name`` is the logger."""
    caller, now = sys._getframe(1), time.monotonic()
    identity = caller.f_code.co_filename, caller.f_lineno
    if now - _last_times.get(identity, -math.inf) >= n:
        logging.getLogger(name or caller.f_globals.get("__name__")).log(lvl, msg)
        _last_times[identity] = now
