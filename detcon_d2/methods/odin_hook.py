"""Keeps learned regions in step with training: K on its schedule, and the regions of all images where they are refreshed by epochs."""

import logging
import os
import re
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.data.whole_images import build_whole_image_loader
from detcon_d2.io.atomic import atomic_file
from detcon_d2.methods.base import MethodHook, PretrainingModel
from detcon_d2.methods.odin import LearnedRegions

logger = logging.getLogger(__name__)

_NFS_SECONDS = 60


class LearnedRegionsHook(MethodHook):
    """Sets K before each step and, where regions are refreshed by epochs, learns those of all images when it is time.

    With REFRESH_EPOCHS E, the first iteration with an image of epoch 0, E, 2E, ... begins with the regions of all images by the encoder of
    that moment (the first time as it was initialised: neighbouring cells of a random network resemble each other, so its regions are
    already patches of the image). They are kept in ``OUTPUT_DIR/kmeans``, one byte per feature cell, so that a resumed run sees the same
    regions. Files that no checkpoint needs any more are removed.
    """

    def __init__(self, cfg: "d2.CfgNode", model: PretrainingModel, records: list[dict]):
        """
        Args:
            cfg: resolved, with DETCON.MASKS.SOURCE kmeans.
            model: not wrapped by DDP.
            records: the training images, whose ``index`` is their place in the list.
        """
        self._cfg = cfg
        self._model = model
        self._regions: LearnedRegions = model.learned_regions
        self._records = records
        self._folder = Path(cfg.OUTPUT_DIR) / "kmeans"

    def before_step(self) -> None:
        """Set K of this iteration; refresh all regions, if it is time."""
        iteration = self.trainer.iter
        self._regions.num_clusters = self._regions.settings.clusters(iteration, self.trainer.max_iter)
        if self._refresh_before(iteration) == iteration:
            self._refresh(iteration)

    def resume(self, iteration: int) -> None:
        """Read the regions with which an uninterrupted run would enter ``iteration``.

        Raises:
            ValueError: their file is missing or of other images.
        """
        refresh = self._refresh_before(iteration)
        if refresh not in (None, iteration):
            self._load(self._path(refresh))

    def _refresh_before(self, iteration: int) -> int | None:
        """The last iteration up to this one at which all regions are refreshed; None where each step learns its own."""
        epochs = self._regions.settings.refresh_epochs
        if not epochs:
            return None
        images, batch = epochs * len(self._records), self._cfg.SOLVER.IMS_PER_BATCH
        return -(-(iteration * batch // images) * images // batch)

    def _path(self, iteration: int) -> Path:
        return self._folder / f"regions_iter{iteration:07d}.npy"

    def _refresh(self, iteration: int) -> None:
        start = time.perf_counter()
        shares = d2.comm.gather(self._learn_share(iteration * self._cfg.SOLVER.IMS_PER_BATCH))
        if d2.comm.is_main_process():
            table = np.concatenate([share for share in shares if len(share)])
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self._path(iteration), sync=True) as file:
                np.save(file, table)
            self._remove_old(iteration)
            logger.info(
                "Regions of %d images by k-means, K = %d, on %d x %d cells: %.0f s.",
                *(len(table), self._regions.num_clusters, *table.shape[1:], time.perf_counter() - start),
            )
        d2.comm.synchronize()
        self._load(self._path(iteration))

    def _learn_share(self, first_position: int) -> np.ndarray:
        """uint8 (images, h, w): regions of this process's share."""
        loader = build_whole_image_loader(self._cfg, self._records, self._regions.whole_image, first_position)
        found = [np.empty(0, np.uint8)]
        with self.trainer.autocast():
            for batch in tqdm(loader, desc="regions by k-means", unit="batch", disable=not d2.comm.is_main_process()):
                found.append(self._regions.learn(self._model, batch["full_image"], batch["kmeans_draws"]).byte().cpu().numpy())
        return np.concatenate(found[1:]) if found[1:] else found[0]

    def _load(self, path: Path) -> None:
        missing = [rank for rank, found in enumerate(d2.comm.all_gather(_appears(path))) if not found]
        if missing:
            raise ValueError(
                f"{path} is missing for the processes {missing}: the regions that this run refreshed last. Every process needs it, on a "
                "shared disk. Restore it, or start the run anew, without --resume."
            )
        table = np.load(path, mmap_mode="r")
        if table.dtype != np.uint8 or table.ndim != 3 or len(table) != len(self._records):
            raise ValueError(
                f"{path} holds {table.dtype} {table.shape}; expected uint8 ({len(self._records)}, h, w), regions of the images of "
                "DATASETS.TRAIN. It is of another run: restore the right one, or start anew, without --resume."
            )
        self._regions.table = table

    def _remove_old(self, iteration: int) -> None:
        """A checkpoint needs the file that was in use when it was written."""
        names = [re.fullmatch(r"model_(\d+)\.pth", path.name) for path in Path(self._cfg.OUTPUT_DIR).iterdir()]
        needed = {self._path(self._refresh_before(int(name[1]) + 1)) for name in names if name} | {self._path(iteration)}
        for path in self._folder.glob("regions_iter*.npy"):
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
