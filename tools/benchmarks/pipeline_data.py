"""The data set of the pipeline's benchmark: photographs as JPEGs with FH regions."""

from importlib import resources
from pathlib import Path

from PIL import Image, ImageOps

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.masks import build_generator, list_images
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.stores import create_store

# Photographs in the package of scikit-image.
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
    """Write ``images/*.jpg``, and their FH regions as PNGs in ``png`` and as shards in ``shards``.

    Args:
        folder: an existing folder.
        size: (width, height) of the images in pixels.
    """
    (folder / "images").mkdir()
    for name in _PHOTOS:
        with Image.open(resources.files("skimage") / "data" / name) as photo:
            fitted = ImageOps.fit(photo.convert("RGB"), size, Image.Resampling.LANCZOS)
        fitted.save(folder / "images" / Path(name).with_suffix(".jpg"), quality=_QUALITY)
    source, generator = f"folder:{folder / 'images'}", build_generator("fh")
    for file_format in ("png", "shards"):
        generate(list_images(source), generator, create_store(folder / file_format, generator, source, file_format), progress=False)


def make_config(folder: Path, label_maps: str = "png", **aug: str) -> "d2.CfgNode":
    """DetCon_B's config for the data set.

    Args:
        folder: written by :func:`write_dataset`.
        label_maps: "png" or "shards".
        aug: values for keys of DETCON.AUG.
    """
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    cfg.SEED = 0
    cfg.DATASETS.TRAIN = (f"folder:{folder / 'images'}",)
    cfg.DETCON.MASKS.ROOTS = (str(folder / label_maps),)
    cfg.DETCON.AUG.update(aug)
    return cfg
