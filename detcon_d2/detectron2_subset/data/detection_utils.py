"""Reading images and checking records."""

import numpy as np
from PIL import Image, ImageOps

from ..missing import missing_name
from ..utils.file_io import PathManager

__getattr__ = missing_name(__name__)


class SizeMismatchError(ValueError):
    """The image has another size than its record says."""


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """An (H, W, C) uint8 array in ``format``: a mode of PIL, or "BGR"; "L" is (H, W, 1); None keeps what the image is.

    ValueError for an unknown format ("YUV-BT.601" is not in the subset).
    """
    array = np.asarray(image if format is None else image.convert({"BGR": "RGB"}.get(format, format)))
    return {"BGR": array[..., ::-1], "L": array[..., None]}.get(format, array)


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Read an image, turned and mirrored as its EXIF orientation says, as :func:`convert_PIL_to_numpy` gives it."""
    with PathManager.open(file_name, "rb") as file:
        return convert_PIL_to_numpy(ImageOps.exif_transpose(Image.open(file)), format)


def check_image_size(dataset_dict: dict, image: np.ndarray) -> None:
    """SizeMismatchError if ``image`` (H, W, ...) contradicts "width" and "height" of the record; fills them in where they are missing."""
    found = {"height": image.shape[0], "width": image.shape[1]}
    expected = {key: dataset_dict.get(key, size) for key, size in found.items()}
    if expected != found:
        raise SizeMismatchError(
            f"Image {dataset_dict.get('file_name', '')} has {found}, its record says {expected}; check the width/height in the annotation."
        )
    dataset_dict.update(found)
