"""The hooks that a method may bring along."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import nn

from detcon_d2 import d2
from detcon_d2.io.atomic import atomic_file

_NFS_SECONDS = 60


class MethodHook(d2.HookBase):
    """A hook that a method brings along."""

    def resume(self, iteration: int) -> None:
        """Called once, when a run starts or continues at ``iteration``; raises ValueError where it cannot be continued."""


@dataclass(eq=False)
class RefreshHook(MethodHook):
    """Computes a table with a row for every training image by the network of the moment, every E epochs.

    The first iteration whose batch begins in epoch 0, E, 2E, ... starts with a new table. It is kept in a file of OUTPUT_DIR, so that a
    resumed run, and every process, has the same. Files that no checkpoint needs any more are removed.

    Attributes:
        cfg: resolved.
        model: not wrapped by DDP.
        records: the training images, whose ``index`` is their place in the list, and in the table.
    """

    folder: ClassVar[str]
    """Of OUTPUT_DIR."""
    prefix: ClassVar[str]
    """Of the files' names, before the iteration."""
    rows: ClassVar[str]
    """What the table has of each image, for messages."""
    dtype: ClassVar[type[np.integer]]
    axes: ClassVar[tuple[str, ...]]
    """The table's axes after the images, for messages."""

    cfg: "d2.CfgNode"
    model: nn.Module
    records: list[dict]

    @property
    def refresh_epochs(self) -> int:
        """E; 0: there is no table."""
        raise NotImplementedError

    def compute(self, iteration: int) -> np.ndarray | None:
        """The table, computed by all processes together; needed of the main process only."""
        raise NotImplementedError

    def use(self, table: np.ndarray) -> None:
        """Give a table to the model."""
        raise NotImplementedError

    def before_step(self) -> None:
        """Refresh the table, if it is time."""
        iteration = self.trainer.iter
        if self.refresh_before(iteration) == iteration:
            self.refresh(iteration)

    def resume(self, iteration: int) -> None:
        """Read the table with which an uninterrupted run would enter ``iteration``.

        Raises ValueError: its file is missing or of other images.
        """
        refresh = self.refresh_before(iteration)
        if refresh not in (None, iteration):
            self._load(self._path(refresh))

    def round_of(self, iteration: int) -> int:
        """How many E epochs have passed."""
        return iteration * self.cfg.SOLVER.IMS_PER_BATCH // (self.refresh_epochs * len(self.records))

    def refresh_before(self, iteration: int) -> int | None:
        """The last iteration up to this one at which the table is computed; None where there is no table."""
        if not self.refresh_epochs:
            return None
        return -(-self.round_of(iteration) * self.refresh_epochs * len(self.records) // self.cfg.SOLVER.IMS_PER_BATCH)

    def refresh(self, iteration: int) -> None:
        """Compute the table, write it and use it."""
        table = self.compute(iteration)
        if d2.comm.is_main_process():
            self._path(iteration).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path(iteration), sync=True) as file:
                np.save(file, table)
            self._remove_old(iteration)
        d2.comm.synchronize()
        self._load(self._path(iteration))

    def _path(self, iteration: int) -> Path:
        return Path(self.cfg.OUTPUT_DIR) / self.folder / f"{self.prefix}{iteration:07d}.npy"

    def _load(self, path: Path) -> None:
        missing = [rank for rank, found in enumerate(d2.comm.all_gather(_appears(path))) if not found]
        if missing:
            raise ValueError(
                f"{path} is missing for the processes {missing}: the {self.rows} that this run refreshed last. Every process needs it, on "
                "a shared disk. Restore it, or start the run anew, without --resume."
            )
        table = np.load(path, mmap_mode="r")
        if table.dtype != self.dtype or table.ndim != 1 + len(self.axes) or len(table) != len(self.records):
            expected = ", ".join(map(str, (len(self.records), *self.axes)))
            raise ValueError(
                f"{path} holds {table.dtype} {table.shape}; expected {np.dtype(self.dtype)} ({expected}), {self.rows} of the images of "
                "DATASETS.TRAIN. It is of another run: restore the right one, or start anew, without --resume."
            )
        self.use(table)

    def _remove_old(self, iteration: int) -> None:
        """A checkpoint needs the file that was in use when it was written."""
        names = [re.fullmatch(r"model_(\d+)\.pth", path.name) for path in Path(self.cfg.OUTPUT_DIR).iterdir()]
        needed = {self._path(self.refresh_before(int(name[1]) + 1)) for name in names if name} | {self._path(iteration)}
        for path in self._path(iteration).parent.glob(f"{self.prefix}*.npy"):
            if path not in needed:
                path.unlink()


def _appears(path: Path) -> bool:
    """Whether the file is there. A machine may see a file that another one has written to a network disk only some seconds later."""
    for _ in range(_NFS_SECONDS):
        # Listing the folder renews what the machine remembers of it.
        if path.parent.is_dir() and path.name in os.listdir(path.parent):
            return True
        if d2.comm.get_world_size() == 1:
            break
        time.sleep(1)
    return False
