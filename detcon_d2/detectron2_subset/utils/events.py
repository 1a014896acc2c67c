"""Scalars and images recorded while training, and the writers that bring them to the terminal, to JSON and to TensorBoard."""

import contextlib
import datetime
import functools
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

_active: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The innermost EventStorage whose ``with`` block is running; AssertionError where there is none."""
    assert _active, "get_event_storage() has to be called inside a 'with EventStorage(...)' block."
    return _active[-1]


class EventStorage:
    """Histories of named scalars, by iteration. Use it as a context manager, so that :func:`get_event_storage` finds it."""

    def __init__(self, start_iter: int = 0) -> None:
        """``start_iter`` is the first iteration's number."""
        self.iter = start_iter
        self.images: list[tuple[str, Any, int]] = []
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._hints: dict[str, bool] = {}
        self._prefix = ""

    def put_scalar(self, name: str, value: float | torch.Tensor, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record ``value`` (anything ``float`` takes) for iteration ``cur_iter``, by default the current one.

        ``smoothing_hint`` says whether writers should show a median over a window rather than the last value; it is fixed at the first
        call for a name, and another one later is an AssertionError.
        """
        name = self._prefix + name
        assert self._hints.setdefault(name, smoothing_hint) == smoothing_hint, f"{name} was recorded with another smoothing_hint before."
        entry = float(value), self.iter if cur_iter is None else cur_iter
        self._histories[name].update(*entry)
        self._latest[name] = entry

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float | torch.Tensor) -> None:
        """Record several scalars given by keyword; see :meth:`put_scalar`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint, cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep an RGB image for TensorBoard: tensor or array (3, H, W), float in [0, 1] or uint8."""
        self.images.append((img_name, img_tensor, self.iter))

    def clear_images(self) -> None:
        """Drop the images kept so far."""
        self.images.clear()

    def history(self, name: str) -> HistoryBuffer:
        """All values of one scalar; KeyError for an unknown name."""
        if name not in self._histories:
            raise KeyError(f"No history of a scalar {name!r}.")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All values of all scalars."""
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """Name -> (last value, its iteration)."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like :meth:`latest`, with the median over the last ``window_size`` iterations where the smoothing hint says so."""
        medians = {name: self._median(name, window_size) for name, smooth in self._hints.items() if smooth}
        return {name: (medians.get(name, value), iteration) for name, (value, iteration) in self._latest.items()}

    def _median(self, name: str, window_size: int) -> float:
        return self._histories[name].median(self.count_samples(name, window_size))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of ``name`` fall in the ``window_size`` iterations that end with its last value."""
        if name not in self._latest:
            return 0
        first = self._latest[name][1] - window_size
        # From the end: a long run has a million values.
        recent = itertools.takewhile(lambda entry: entry[1] > first, reversed(self._histories[name].values()))
        return sum(1 for _ in recent)

    def smoothing_hints(self) -> dict[str, bool]:
        """Name -> smoothing hint."""
        return self._hints

    def step(self) -> None:
        """Go to the next iteration."""
        self.iter += 1

    @contextlib.contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of everything recorded inside the block with ``name/``."""
        before, self._prefix = self._prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = before

    def __enter__(self) -> "EventStorage":
        _active.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        assert _active.pop() is self, "EventStorage blocks must end in the reverse order of their beginning."


class EventWriter:
    """Base class of writers: ``write`` brings what is new in the current EventStorage somewhere, ``close`` ends it."""

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files; by default nothing."""


class _ScalarWriter(EventWriter):
    # What JSON and TensorBoard share: each value is written once, smoothed as its hint says.
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
    """Appends to a file one JSON object a line: the scalars of one iteration by name, and "iteration"."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """``window_size`` is the window of the median, in iterations. The file is made at once."""
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
    """Writes scalars and images to a TensorBoard event file, made at the first write."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """``log_dir`` is the folder; further arguments go to ``torch.utils.tensorboard.SummaryWriter``."""
        super().__init__(window_size)
        self._log_dir, self._kwargs = log_dir, kwargs

    @functools.cached_property
    def _writer(self) -> Any:
        # Imported late: TensorBoard takes a second to import and is optional.
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._log_dir, **self._kwargs)

    def write(self) -> None:
        """Write the scalars that are newer than the last write, and the images, which are then dropped from the storage."""
        storage = get_event_storage()
        for iteration, scalars in self._new_scalars().items():
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, iteration)
        for name, image, iteration in storage.images:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()

    def close(self) -> None:
        """Close the event file if there is one."""
        if "_writer" in vars(self):
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: remaining time, iteration, every scalar with "loss" in its name, times, learning rate and GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """``max_iter`` is the end of training, for the remaining time; ``window_size`` the window of the medians, in iterations."""
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter, self._window_size = max_iter, window_size

    def write(self) -> None:
        """Log the line; nothing once training is over."""
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return
        names = list(storage.histories())
        lr = f"{storage.history('lr').latest():.5g}" if "lr" in names else "N/A"
        fields = (
            f" {self._eta(storage)}iter: {storage.iter}",
            self._medians(storage, [name for name in names if "loss" in name]),
            self._medians(storage, [name for name in names if "[metric]" in name]),
            f"{self._times(storage)} lr: {lr}",
            f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M" if torch.cuda.is_available() else "",
        )
        self.logger.info("  ".join(fields))

    def _medians(self, storage: EventStorage, names: list[str]) -> str:
        return "  ".join(f"{name}: {storage._median(name, self._window_size):.4g}" for name in names)

    def _times(self, storage: EventStorage) -> str:
        histories, text = storage.histories(), ""
        if "time" in histories:
            text += f"time: {histories['time'].global_avg():.4f}  last_time: {histories['time'].latest():.4f}  "
        if "data_time" in histories:
            average = histories["data_time"].avg(storage.count_samples("data_time", self._window_size))
            text += f"data_time: {average:.4f}  last_data_time: {histories['data_time'].latest():.4f}  "
        return text

    def _eta(self, storage: EventStorage) -> str:
        if self._max_iter is None or "time" not in storage.histories():
            return ""
        seconds = storage.history("time").median(1000) * (self._max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return f"eta: {datetime.timedelta(seconds=int(seconds))}  "
