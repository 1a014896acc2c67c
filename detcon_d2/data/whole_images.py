"""All training images once, whole and in order, for hooks that look at the data set (regions or clusters of all images)."""

import logging
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from detcon_d2 import d2
from detcon_d2.data.loader import init_worker
from detcon_d2.io.images import ImageReadError, read_image

logger = logging.getLogger(__name__)


class WholeImageDataset(Dataset):
    """Every image once."""

    def __init__(
        self,
        records: list[dict],
        make: Callable[[np.ndarray, int], dict[str, torch.Tensor]],
        first_position: int,
        *,
        skip_bad_images: bool,
    ):
        """
        Args:
            records: the images.
            make: called with an image, uint8 (H, W, 3) RGB, and the position ``first_position + index``.
            first_position: >= 0.
            skip_bad_images: an unreadable image becomes black; training never shows it.
        """
        self._records = d2.DatasetFromList(records, copy=False, serialize=True)
        self._make = make
        self._first_position = first_position
        self._skip = skip_bad_images

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """The tensors of one image.

        Raises:
            ValueError: an unreadable image, with file and remedy.
        """
        try:
            image = read_image(self._records[index]["file_name"])
        except ImageReadError as error:
            if not self._skip:
                raise ValueError(
                    f"{error} It is image {index} of the training data. Repair or remove it, or set DETCON.ON_BAD_IMAGE skip."
                ) from None
            logger.warning("This image is taken as black (DETCON.ON_BAD_IMAGE skip): %s", error)
            image = np.zeros((1, 1, 3), np.uint8)
        return self._make(image, self._first_position + index)


def build_whole_image_loader(
    cfg: "d2.CfgNode", records: list[dict], make: Callable[[np.ndarray, int], dict[str, torch.Tensor]], first_position: int
) -> DataLoader:
    """This process's share of all images, in batches of tensors.

    Args:
        cfg: the config; SEED, SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS and DETCON.ON_BAD_IMAGE.
        records: the images; process r of R takes the r-th of R equal parts.
        make: called with an image, uint8 (H, W, 3) RGB, and its position.
        first_position: position of image 0; image i has ``first_position + i``.

    Returns:
        Batches of what ``make`` returns, in the order of the records.
    """
    rank, world_size = d2.comm.get_rank(), d2.comm.get_world_size()
    dataset = WholeImageDataset(records, make, first_position, skip_bad_images=cfg.DETCON.ON_BAD_IMAGE == "skip")
    return DataLoader(
        Subset(dataset, range(len(records) * rank // world_size, len(records) * (rank + 1) // world_size)),
        batch_size=cfg.SOLVER.IMS_PER_BATCH // world_size,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        worker_init_fn=init_worker,
        timeout=cfg.DETCON.LOADER_TIMEOUT if cfg.DATALOADER.NUM_WORKERS else 0,
        pin_memory=cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(cfg.SEED),
    )
