"""From a record to the input of a detector: Detectron2's mapper, with the image reader of all tools, for images of any shape."""

import io
import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from iopath.common.file_io import PathHandler
from PIL import Image

from detcon_d2 import d2
from detcon_d2.data.reading import BadImages, RefusedImageError, reading_from_config
from detcon_d2.io.images import ImageReadError, Reading, read_image, recorded_size

UNREADABLE = "unreadable"
"""Key of what the mapper returns in evaluation for an image that is skipped: the reason."""

_PREFIX = "detcon-image://"
_MAX_REPLACEMENTS = 20
T = d2.transforms


class _ImageHandler(PathHandler):
    """Opens an image as the tools see it. Detectron2 opens images by its path manager, so its own reader gets these pixels."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        name, size, wide_range, max_pixels = json.loads(path.removeprefix(_PREFIX))
        image = read_image(name, size and tuple(size), Reading(tuple(wide_range), max_pixels))
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PPM")
        file.seek(0)
        return file


d2.PathManager.register_handler(_ImageHandler())


class AtLeastOnePixel(T.Augmentation):
    """Resizes as another augmentation, but to at least one pixel along each side: of 4000 x 3 pixels, 3 * 800 / 4000 would be rounded to 0
    and Pillow would refuse it."""

    def __init__(self, resize: "T.Augmentation"):
        """``resize`` returns a ResizeTransform."""
        self.resize = resize

    def get_transform(self, image: np.ndarray) -> "T.Transform":
        """The transform of an image (H, W, C)."""
        transform = self.resize.get_transform(image)
        if not isinstance(transform, T.ResizeTransform) or min(transform.new_h, transform.new_w) > 0:
            return transform
        return T.ResizeTransform(transform.h, transform.w, max(transform.new_h, 1), max(transform.new_w, 1), transform.interp)


class DetectionMapper(d2.DatasetMapper):
    """Detectron2's mapper on images that :func:`detcon_d2.io.images.read_image` reads, with DETCON.ON_BAD_IMAGE.

    In training, a skipped image is replaced by one of ``others`` (none: it is refused), sampled by numpy's global generator, as
    augmentations are. In evaluation, what is returned for it has the key :data:`UNREADABLE`.
    """

    @d2.configurable
    def __init__(self, is_train: bool, *, reading: Reading, on_bad_image: str, augmentations: Sequence["T.Augmentation"], **options: Any):
        """``reading``: how images are read; ``on_bad_image``: "refuse" or "skip"; the others are Detectron2's."""
        resizes = (T.ResizeShortestEdge, T.ResizeScale)
        augmentations = [AtLeastOnePixel(one) if isinstance(one, resizes) else one for one in augmentations]
        super().__init__(is_train, augmentations=augmentations, **options)
        self.others: Sequence[dict] = ()
        self._reading = reading
        self._bad_images = BadImages(on_bad_image, "another image takes its place" if is_train else "it is left out")

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode", is_train: bool = True) -> dict[str, Any]:
        """Also reads DETCON.DATA and DETCON.ON_BAD_IMAGE."""
        options = {"reading": reading_from_config(cfg), "on_bad_image": cfg.DETCON.ON_BAD_IMAGE}
        return super().from_config(cfg, is_train) | options

    def __call__(self, record: dict) -> dict:
        """Map a record, which is not changed.

        Raises RefusedImageError: an image that cannot be read, if it is refused or there are too many; or one of another size than in its
        record.
        """
        for _ in range(_MAX_REPLACEMENTS):
            try:
                return self._map(record)
            except ImageReadError as error:
                self._bad_images.skip(error)
                if not self.is_train:
                    return {"file_name": record["file_name"], UNREADABLE: error.reason}
            if len(self.others) == 0:
                break
            record = self.others[np.random.randint(len(self.others))]
        raise BadImages.too_many(_MAX_REPLACEMENTS, record)

    def _map(self, record: dict) -> dict:
        name = record["file_name"]
        shown = _PREFIX + json.dumps([name, recorded_size(record), self._reading.wide_range, self._reading.max_pixels])
        try:
            return super().__call__(record | {"file_name": shown}) | {"file_name": name}
        except d2.detection_utils.SizeMismatchError as error:
            raise RefusedImageError(" ".join(str(error).replace(shown, name).split())) from None
