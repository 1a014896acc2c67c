"""A small folder of images with label maps, and a config for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.masks.store.png_folder import LabelMapStore


@dataclass
class PaintedSet:
    """A data set on disk whose label maps number the pixels and whose images paint the same numbers' coordinates."""

    folder: Path
    masks: Path
    store: LabelMapStore

    @property
    def name(self) -> str:
        return f"folder:{self.folder}"

    def add(self, key: str, image: Image.Image, label_map: np.ndarray | None, **save) -> Path:
        """Write an image and, unless None, its label map (uint16)."""
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **save)
        if label_map is not None:
            self.store.write(key, label_map)
        return path

    def add_painted(self, key: str, height: int, width: int) -> Path:
        """An image whose red is x and green is y of its pixels, and a label map y * width + x."""
        return self.add(key, Image.fromarray(painted_image(height, width)), numbered_pixels(height, width))


def painted_image(height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3): red = x, green = y, blue = 128; sides up to 256."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)


def numbered_pixels(height: int, width: int) -> np.ndarray:
    """uint16 (height, width): y * width + x; more than 255 ids."""
    return np.arange(height * width, dtype=np.uint16).reshape(height, width)


@pytest.fixture
def empty_set(tmp_path) -> PaintedSet:
    """No images yet."""
    folder, masks = tmp_path / "images", tmp_path / "masks"
    folder.mkdir()
    store = LabelMapStore.create(masks, "grid", {"size": 2}, f"folder:{folder}")
    return PaintedSet(folder, masks, store)


@pytest.fixture
def painted_set(empty_set) -> PaintedSet:
    """Ten PNGs of several sizes in two class folders."""
    for number in range(10):
        empty_set.add_painted(f"{'ab'[number % 2]}/{number}.png", 40 + 5 * number, 100 - 6 * number)
    return empty_set


@pytest.fixture
def make_cfg():
    """A function from a data set and KEY, VALUE pairs to a config without random colours, so that pixels can be traced."""

    def make(dataset: PaintedSet | None, *opts) -> "d2.CfgNode":
        cfg = d2.get_cfg()
        add_detcon_config(cfg)
        cfg.INPUT.FORMAT = "RGB"
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME = "DetConB", "build_detcon_resnet_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        cfg.SEED = 0
        cfg.SOLVER.IMS_PER_BATCH = 4
        cfg.DATALOADER.NUM_WORKERS = 0
        cfg.DETCON.VIEWS.SIZE = 32
        for key in ("JITTER_PROB", "GRAY_PROB", "BLUR_PROB", "SOLARIZE_PROB"):
            cfg.DETCON.AUG[key] = (0.0, 0.0)
        if dataset is not None:
            cfg.DATASETS.TRAIN = (dataset.name,)
            cfg.DETCON.MASKS.ROOTS = (str(dataset.masks),)
        cfg.merge_from_list(list(opts))
        return cfg

    return make
