"""Keeps learned regions in step with training: K on its schedule, and the regions of all images where they are refreshed by epochs."""

import logging
import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from detcon_d2 import d2
from detcon_d2.data.loader import build_whole_image_loader
from detcon_d2.methods.hook import RefreshHook

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class LearnedRegionsHook(RefreshHook):
    """Sets K before each step and, where regions are refreshed by epochs, learns those of all images when it is time.

    The first regions are by the encoder as it was initialised: neighbouring cells of a random network resemble each other, so its regions
    are already patches of the image. A file has one byte per feature cell. The model's config has DETCON.MASKS.SOURCE kmeans.
    """

    folder, prefix, rows, dtype, axes = "kmeans", "regions_iter", "regions", np.uint8, ("h", "w")

    @property
    def refresh_epochs(self) -> int:
        """REFRESH_EPOCHS; 0: each step learns its own regions."""
        return self.model.learned_regions.settings.refresh_epochs

    def before_step(self) -> None:
        """Set K of this iteration; refresh all regions, if it is time."""
        regions = self.model.learned_regions
        regions.num_clusters = regions.settings.clusters(self.trainer.iter, self.trainer.max_iter)
        super().before_step()

    def compute(self, iteration: int) -> np.ndarray | None:
        """uint8 (images, h, w): each process learns the regions of its share."""
        start = time.perf_counter()
        shares = d2.comm.gather(self._learn_share(iteration * self.cfg.SOLVER.IMS_PER_BATCH))
        if not d2.comm.is_main_process():
            return None
        table = np.concatenate([share for share in shares if len(share)])
        logger.info(
            "Regions of %d images by k-means, K = %d, on %d x %d cells: %.0f s.",
            *(len(table), self.model.learned_regions.num_clusters, *table.shape[1:], time.perf_counter() - start),
        )
        return table

    def use(self, table: np.ndarray) -> None:
        """See the base class."""
        self.model.learned_regions.table = table

    def _learn_share(self, first_position: int) -> np.ndarray:
        """uint8 (images, h, w): regions of this process's share."""
        regions = self.model.learned_regions
        loader = build_whole_image_loader(self.cfg, self.records, regions.whole_image, first_position)
        progress = tqdm(loader, desc="regions by k-means", unit="batch", disable=not d2.comm.is_main_process())
        with self.trainer.autocast():
            found = [regions.learn(self.model, batch["full_image"], batch["kmeans_draws"]).byte().cpu() for batch in progress]
        return torch.cat(found).numpy() if found else np.empty(0, np.uint8)
