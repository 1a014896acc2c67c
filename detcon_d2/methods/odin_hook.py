"""Keeps learned regions in step with training: K on its schedule, and the regions of all images where they are refreshed by epochs."""

import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.data.loader import build_whole_image_loader
from detcon_d2.io.atomic import atomic_file
from detcon_d2.methods.base import PretrainingModel
from detcon_d2.methods.hook import MethodHook

logger = logging.getLogger(__name__)

_NFS_SECONDS = 60


@dataclass(eq=False)
class LearnedRegionsHook(MethodHook):
    """Sets K before each step and, where regions are refreshed by epochs, learns those of all images when it is time.

    With REFRESH_EPOCHS E, the first iteration with an image of epoch 0, E, 2E, ... begins with the regions of all images by the encoder of
    that moment (the first time as it was initialised: neighbouring cells of a random network resemble each other, so its regions are
    already patches of the image). They are kept in ``OUTPUT_DIR/kmeans``, one byte per feature cell, so that a resumed run sees the same
    regions. Files that no checkpoint needs any more are removed.

    Attributes:
        cfg: resolved, with DETCON.MASKS.SOURCE kmeans.
        model: not wrapped by DDP.
        records: the training images, whose ``index`` is their place in the list.
    """

    cfg: "d2.CfgNode"
    model: PretrainingModel
    records: list[dict]

    def before_step(self) -> None:
        """Set K of this iteration; refresh all regions, if it is time."""
        iteration = self.trainer.iter
        regions = self.model.learned_regions
        regions.num_clusters = regions.settings.clusters(iteration, self.trainer.max_iter)
        if self._refresh_before(iteration) == iteration:
            self._refresh(iteration)

    def resume(self, iteration: int) -> None:
        """Read the regions with which an uninterrupted run would enter ``iteration``.

        Raises ValueError: their file is missing or of other images.
        """
        refresh = self._refresh_before(iteration)
        if refresh not in (None, iteration):
            self._load(self._path(refresh))

    def _refresh_before(self, iteration: int) -> int | None:
        """The last iteration up to this one at which all regions are refreshed; None where each step learns its own."""
        epochs = self.model.learned_regions.settings.refresh_epochs
        if not epochs:
            return None
        images, batch = epochs * len(self.records), self.cfg.SOLVER.IMS_PER_BATCH
        return -(-(iteration * batch // images) * images // batch)

    def _path(self, iteration: int) -> Path:
        return Path(self.cfg.OUTPUT_DIR) / "kmeans" / f"regions_iter{iteration:07d}.npy"

    def _refresh(self, iteration: int) -> None:
        start = time.perf_counter()
        shares = d2.comm.gather(self._learn_share(iteration * self.cfg.SOLVER.IMS_PER_BATCH))
        if d2.comm.is_main_process():
            table = np.concatenate([share for share in shares if len(share)])
            self._path(iteration).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path(iteration), sync=True) as file:
                np.save(file, table)
            self._remove_old(iteration)
            logger.info(
                "Regions of %d images by k-means, K = %d, on %d x %d cells: %.0f s.",
                *(len(table), self.model.learned_regions.num_clusters, *table.shape[1:], time.perf_counter() - start),
            )
        d2.comm.synchronize()
        self._load(self._path(iteration))

    def _learn_share(self, first_position: int) -> np.ndarray:
        """uint8 (images, h, w): regions of this process's share."""
        regions = self.model.learned_regions
        loader = build_whole_image_loader(self.cfg, self.records, regions.whole_image, first_position)
        progress = tqdm(loader, desc="regions by k-means", unit="batch", disable=not d2.comm.is_main_process())
        with self.trainer.autocast():
            found = [regions.learn(self.model, batch["full_image"], batch["kmeans_draws"]).byte().cpu() for batch in progress]
        return torch.cat(found).numpy() if found else np.empty(0, np.uint8)

    def _load(self, path: Path) -> None:
        missing = [rank for rank, found in enumerate(d2.comm.all_gather(_appears(path))) if not found]
        if missing:
            raise ValueError(
                f"{path} is missing for the processes {missing}: the regions that this run refreshed last. Every process needs it, on a "
                "shared disk. Restore it, or start the run anew, without --resume."
            )
        table = np.load(path, mmap_mode="r")
        if table.dtype != np.uint8 or table.ndim != 3 or len(table) != len(self.records):
            raise ValueError(
                f"{path} holds {table.dtype} {table.shape}; expected uint8 ({len(self.records)}, h, w), regions of the images of "
                "DATASETS.TRAIN. It is of another run: restore the right one, or start anew, without --resume."
            )
        self.model.learned_regions.table = table

    def _remove_old(self, iteration: int) -> None:
        """A checkpoint needs the file that was in use when it was written."""
        names = [re.fullmatch(r"model_(\d+)\.pth", path.name) for path in Path(self.cfg.OUTPUT_DIR).iterdir()]
        needed = {self._path(self._refresh_before(int(name[1]) + 1)) for name in names if name} | {self._path(iteration)}
        for path in self._path(iteration).parent.glob("regions_iter*.npy"):
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
