"""Photographs as a data set on disk: JPEGs of ImageNet's usual size with FH regions, and our mapper for them."""

from importlib import resources
from pathlib import Path

from PIL import Image, ImageOps

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.data import DetConMapper, load_training_records
from detcon_d2.masks import build_generator, list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.formats import create_store

# Of scikit-image, that it brings along.
_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_QUALITY = 90


def write_dataset(folder: Path, size: tuple[int, int]) -> None:
    """Write ``images/*.jpg`` and their FH regions, once as PNGs in ``png`` and once in ``tar``.

    Args:
        folder: exists.
        size: (width, height) of the images in pixels.
    """
    (folder / "images").mkdir()
    for name in _PHOTOS:
        with Image.open(resources.files("skimage") / "data" / name) as photo:
            fitted = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.LANCZOS)
        fitted.save(folder / "images" / Path(name).with_suffix(".jpg"), quality=_QUALITY)
    source, generator = f"folder:{folder / 'images'}", build_generator("fh")
    for file_format in ("png", "tar"):
        generate(list_images(source), generator, create_store(folder / file_format, generator, source, file_format), progress=False)


def make_config(folder: Path, label_maps: str = "png", **aug: str) -> "d2.CfgNode":
    """DetCon_B's config for the data set.

    Args:
        folder: of :func:`write_dataset`.
        label_maps: "png" or "tar".
        aug: values of keys of DETCON.AUG.
    """
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.SEED = 0
    cfg.DATASETS.TRAIN = (f"folder:{folder / 'images'}",)
    cfg.DETCON.MASKS.ROOTS = (str(folder / label_maps),)
    for key, value in aug.items():
        cfg.DETCON.AUG[key] = value
    return cfg


class Loader:
    """Our mapper on a number of images, as often as asked."""

    def __init__(self, cfg: "d2.CfgNode", images: int):
        """
        Args:
            cfg: of :func:`make_config`.
            images: of each call, at the positions from 0.
        """
        self.records = load_training_records(cfg)
        self.mapper = DetConMapper(cfg)
        self.images = images

    def __call__(self) -> None:
        """Makes both views of all images."""
        for position in range(self.images):
            self.mapper(self.records[position % len(self.records)], position)
