"""Keeps learned regions in step with training: K on its schedule, and the regions of all images where they are refreshed by epochs."""

import logging
import re
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.config import kmeans_settings
from detcon_d2.data import build_full_image_loader
from detcon_d2.io.atomic import write_atomically
from detcon_d2.methods import DetConBase

logger = logging.getLogger(__name__)


class KMeansHook(d2.HookBase):
    """Sets what the model needs to know of its learned regions before each step. Should be the first hook: a refresh is no part of a step.

    With DETCON.MASKS.KMEANS.REFRESH_EPOCHS E, the first iteration with an image of epoch 0, E, 2E, ... begins with the regions of all
    images by the encoder of that moment (the first time as it was initialised: neighbouring cells of a random network resemble each other,
    so its regions are already patches of the image). They are kept in ``OUTPUT_DIR/kmeans``, one byte a feature cell, so that a resumed
    run sees the same regions. Files that no checkpoint needs any more are removed.
    """

    def __init__(self, cfg: "d2.CfgNode", model: DetConBase, records: list[dict]):
        """
        Args:
            cfg: resolved, with DETCON.MASKS.SOURCE kmeans.
            model: not wrapped by DDP.
            records: the training images, whose ``index`` is their place in the list.
        """
        self._cfg = cfg
        self._settings = kmeans_settings(cfg)
        self._model = model
        self._records = records
        self._folder = Path(cfg.OUTPUT_DIR) / "kmeans"

    def before_step(self) -> None:
        """K of this iteration; and all regions, if it is time."""
        iteration = self.trainer.iter
        self._model.kmeans.num_clusters = self._settings.clusters(iteration, self.trainer.max_iter)
        if self._refresh_before(iteration) == iteration:
            self._refresh(iteration)

    def resume(self, iteration: int) -> None:
        """Take up the regions with which an uninterrupted run would enter ``iteration``.

        Raises:
            ValueError: their file is missing or of other images.
        """
        refresh = self._refresh_before(iteration)
        if refresh not in (None, iteration):
            self._load(self._path(refresh))

    def _refresh_before(self, iteration: int) -> int | None:
        """The last iteration up to this one at which all regions are refreshed; None where each step learns its own."""
        if not self._settings.refresh_epochs:
            return None
        images, batch = self._settings.refresh_epochs * len(self._records), self._cfg.SOLVER.IMS_PER_BATCH
        return -(-(iteration * batch // images) * images // batch)

    def _path(self, iteration: int) -> Path:
        return self._folder / f"regions_iter{iteration:07d}.npy"

    def _refresh(self, iteration: int) -> None:
        start = time.perf_counter()
        shares = d2.comm.gather(self._learn_share(iteration * self._cfg.SOLVER.IMS_PER_BATCH))
        if d2.comm.is_main_process():
            table = np.concatenate([share for share in shares if len(share)])
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(iteration), lambda file: np.save(file, table))
            self._remove_old(iteration)
            logger.info(
                "Regions of %d images by k-means, K = %d, on %d x %d cells: %.0f s.",
                *(len(table), self._model.kmeans.num_clusters, *table.shape[1:], time.perf_counter() - start),
            )
        d2.comm.synchronize()
        self._load(self._path(iteration))

    def _learn_share(self, first_position: int) -> np.ndarray:
        """uint8 (images, h, w): regions of this process's share."""
        trainer = self.trainer
        loader = build_full_image_loader(self._cfg, self._records, first_position)
        found = [np.empty(0, np.uint8)]
        with torch.autocast(trainer.device_type, dtype=trainer.amp_dtype, enabled=trainer.amp_dtype is not None):
            for batch in tqdm(loader, desc="regions by k-means", unit="batch", disable=not d2.comm.is_main_process()):
                found.append(self._model.learn_regions(batch["full_image"], batch["kmeans_draws"]).byte().cpu().numpy())
        return np.concatenate(found[1:]) if found[1:] else found[0]

    def _load(self, path: Path) -> None:
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: the regions that this run refreshed last. Every process needs it, on a shared disk. Restore it, or "
                "start the run anew, without --resume."
            )
        table = np.load(path, mmap_mode="r")
        if table.dtype != np.uint8 or table.ndim != 3 or len(table) != len(self._records):
            raise ValueError(
                f"{path} holds {table.dtype} {table.shape}; expected uint8 ({len(self._records)}, h, w), regions of the images of "
                "DATASETS.TRAIN. It is of another run: restore the right one, or start anew, without --resume."
            )
        self._model.kmeans.table = table

    def _remove_old(self, iteration: int) -> None:
        """A checkpoint needs the file that was in use when it was written."""
        names = [re.fullmatch(r"model_(\d+)\.pth", path.name) for path in Path(self._cfg.OUTPUT_DIR).iterdir()]
        needed = {self._path(self._refresh_before(int(name[1]) + 1)) for name in names if name} | {self._path(iteration)}
        for path in self._folder.glob("regions_iter*.npy"):
            if path not in needed:
                path.unlink()
