"""Loggers for the terminal and for files."""

import functools
import logging
import math
import os
import sys
import time
from collections import Counter

from termcolor import colored

from .file_io import PathManager

_DATE = "%m/%d %H:%M:%S"


class _ColorFormatter(logging.Formatter):
    def __init__(self, name: str, abbreviation: str) -> None:
        self._name, self._abbreviation = name, abbreviation
        super().__init__(colored("[%(asctime)s %(short)s]: ", "green") + "%(message)s", _DATE)

    def format(self, record: logging.LogRecord) -> str:
        child = record.name.startswith(self._name + ".")
        record.short = (self._abbreviation + record.name[len(self._name) :]).lstrip(".") if child else record.name
        text = super().format(record)
        return f"{colored(record.levelname, 'red')} {text}" if record.levelno >= logging.WARNING else text


@functools.cache
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """The logger ``name`` at level DEBUG, writing to the terminal (rank 0 only) and to a file.

    Args:
        output: a file (``.txt`` or ``.log``) or a folder, for ``log.txt`` in it; None: no file. Ranks above 0 append ``.rank<r>``.
        distributed_rank: rank of this process.
        color: a short form for the terminal, colored where it is one; otherwise the lines are the file's.
        name: root module name of the logger.
        abbrev_name: stands for ``name`` in the terminal in the names of child loggers; by default "d2" for "detectron2".
        enable_propagation: also pass records to the parent logger.
        configure_stdout: write to the terminal at all.

    A second call with the same arguments returns the same logger and adds nothing.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", _DATE)
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    if configure_stdout and distributed_rank == 0:
        _add_handler(logger, logging.StreamHandler(sys.stdout), _ColorFormatter(name, abbrev_name) if color else plain)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path += f".rank{distributed_rank}" if distributed_rank > 0 else ""
        PathManager.mkdirs(os.path.dirname(path) or ".")
        _add_handler(logger, logging.FileHandler(path), plain)
    return logger


def _add_handler(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setFormatter(formatter)
    logger.addHandler(handler)


_counts: Counter = Counter()


def log_first_n(lvl: int, msg: str, n: int = 1, *, name: str | None = None, key: str | tuple[str, ...] = "caller") -> None:
    """Log only the first ``n`` times, counted by the calling line and / or the message.

    Args:
        lvl: level of the ``logging`` module.
        msg: the message.
        n: how often.
        name: logger; by default that of the calling module.
        key: "caller", "message" or both: what makes two calls the same.
    """
    caller = sys._getframe(1)
    # A tuple of names and one name both answer to ``in``.
    identity = ((caller.f_code.co_filename, caller.f_lineno) if "caller" in key else None, msg if "message" in key else None)
    _counts[identity] += 1
    if _counts[identity] <= n:
        logging.getLogger(name or caller.f_globals.get("__name__")).log(lvl, msg)


_last_times: dict[tuple[str, int], float] = {}


def log_every_n_seconds(lvl: int, msg: str, n: float = 1, *, name: str | None = None) -> None:
    """Log a message from the calling line unless there was one in the last ``n`` seconds; ``name`` is the logger."""
    caller, now = sys._getframe(1), time.monotonic()
    identity = caller.f_code.co_filename, caller.f_lineno
    if now - _last_times.get(identity, -math.inf) >= n:
        logging.getLogger(name or caller.f_globals.get("__name__")).log(lvl, msg)
        _last_times[identity] = now
