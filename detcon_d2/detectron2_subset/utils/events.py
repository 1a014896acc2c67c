"""Scalars that are recorded during training, and the writers that bring them to JSON files and to TensorBoard."""

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from ..missing import missing_name
from .file_io import PathManager

__getattr__ = missing_name(__name__)

_active: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Return the innermost EventStorage whose ``with`` block is running; AssertionError if there is none."""
    assert _active, "get_event_storage() has to be called inside a 'with EventStorage(...)' block."
    return _active[-1]


class EventStorage:
    """Histories of named scalars, by iteration. Use it as a context manager: then :func:`get_event_storage` finds it."""

    def __init__(self, start_iter: int = 0) -> None:
        """``start_iter`` is the number of the first iteration."""
        self.iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._hints: dict[str, bool] = {}

    def put_scalar(self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record ``value`` (anything that ``float`` accepts) for iteration ``cur_iter`` (default: the current iteration).

        ``smoothing_hint``: whether writers should show a median over a window instead of the last value. The first call for a name fixes
        it; AssertionError if a later call gives another value.
        """
        assert self._hints.setdefault(name, smoothing_hint) == smoothing_hint, f"{name} was recorded with another smoothing_hint before."
        entry = float(value), self.iter if cur_iter is None else cur_iter
        self._histories[name].update(*entry)
        self._latest[name] = entry

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float | torch.Tensor) -> None:
        """Record several scalars, given as keyword arguments; see :meth:`put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint, cur_iter)

    def history(self, name: str) -> HistoryBuffer:
        """Return all values of one scalar; KeyError for an unknown name."""
        if name not in self._histories:
            raise KeyError(f"No history of a scalar {name!r}.")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """Return name -> all values."""
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Return name -> (last value, its iteration)."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Return :meth:`latest`, but with the median over the last ``window_size`` iterations for scalars with a smoothing hint."""
        medians = {name: self._median(name, window_size) for name, smooth in self._hints.items() if smooth}
        return {name: (medians.get(name, value), iteration) for name, (value, iteration) in self._latest.items()}

    def _median(self, name: str, window_size: int) -> float:
        # The window counts iterations, not values: a scalar may be recorded in some iterations only.
        first = self._latest[name][1] - window_size
        # Read from the end, because a long run has a million values.
        recent = itertools.takewhile(lambda entry: entry[1] > first, reversed(self._histories[name].values()))
        return self._histories[name].median(sum(1 for _ in recent))

    def __enter__(self) -> "EventStorage":
        _active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert _active.pop() is self, "EventStorage blocks must end in the reverse order of their beginning."


class EventWriter:
    """Base class of writers: ``write`` brings the new values of the current EventStorage somewhere, ``close`` ends the writer."""

    def write(self) -> None:
        """Write the new values."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files; the base class has none."""


class _ScalarWriter(EventWriter):
    # What the JSON and the TensorBoard writer share: each value is written once, smoothed according to its hint.
    def __init__(self, window_size: int) -> None:
        self._window_size, self._written = window_size, -1

    def _new_scalars(self) -> Mapping[int, dict[str, float]]:
        new = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._written:
                new[iteration][name] = float(value)
        self._written = max(new, default=self._written)
        return new


class JSONWriter(_ScalarWriter):
    """Appends lines to a file. Each line is a JSON object with the scalars of one iteration by name, and "iteration"."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """``window_size`` is the window of the median, in iterations. The file is created at once."""
        super().__init__(window_size)
        self._file = PathManager.open(json_file, "a")

    def write(self) -> None:
        """Append the scalars that are newer than the last write, and flush."""
        for iteration, scalars in self._new_scalars().items():
            self._file.write(json.dumps({**scalars, "iteration": iteration}, sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorboardXWriter(_ScalarWriter):
    """Writes scalars to a TensorBoard event file. The file is created at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """``log_dir`` is the folder of the file; other arguments go to ``torch.utils.tensorboard.SummaryWriter``."""
        super().__init__(window_size)
        self._log_dir, self._kwargs = log_dir, kwargs

    @functools.cached_property
    def _writer(self) -> Any:
        # Imported here, because TensorBoard is optional and takes a second to import.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._log_dir, **self._kwargs)

    def write(self) -> None:
        """Write the scalars that are newer than the last write."""
        for iteration, scalars in self._new_scalars().items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Close the event file, if there is one."""
        if "_writer" in vars(self):
            self._writer.close()
