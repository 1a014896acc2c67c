"""From a record to the two views that the model gets."""

import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.data.label_maps import LabelMapSource
from detcon_d2.data.photometric import PhotometricAugmentation
from detcon_d2.data.position import Stream, position_rng
from detcon_d2.data.views import ViewAugmentation
from detcon_d2.masks.reader import read_image


class DetConMapper:
    """Reads an image and its regions and makes two aligned, differently augmented views.

    A pure function of record and position: workers and processes share nothing.
    """

    @d2.configurable
    def __init__(
        self,
        *,
        seed: int,
        num_samples: int,
        geometry: ViewAugmentation,
        photometric: tuple[PhotometricAugmentation, PhotometricAugmentation],
        label_maps: LabelMapSource,
    ):
        """
        Args:
            seed: >= 0.
            num_samples: M, numbers drawn for a view, from which the model draws region ids.
            geometry: of both views.
            photometric: of view 1 and of view 2.
            label_maps: gives the regions of a record.
        """
        self.seed = seed
        self.num_samples = num_samples
        self.geometry = geometry
        self.photometric = photometric
        self.label_maps = label_maps

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments from DETCON.VIEWS, AUG, MASKS and SEED.

        Raises:
            ValueError: for values outside their ranges, with key, found and expected.
        """
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; expected 'RGB', the order of the views and of MODEL.PIXEL_MEAN.")
        views, masks = cfg.DETCON.VIEWS, cfg.DETCON.MASKS
        geometry = ViewAugmentation(
            size=views.SIZE,
            crop_area=tuple(views.CROP_AREA),
            crop_aspect=tuple(views.CROP_ASPECT),
            flip_prob=views.FLIP_PROB,
            interpolation=views.INTERPOLATION,
        )
        return {
            "seed": cfg.SEED,
            "num_samples": cfg.DETCON.NUM_SAMPLES,
            "geometry": geometry,
            "photometric": (_photometric(cfg.DETCON.AUG, 0), _photometric(cfg.DETCON.AUG, 1)),
            "label_maps": LabelMapSource(masks.GRID if masks.SOURCE == "grid" else None),
        }

    def read(self, record: dict) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, 3) RGB and label map uint16 (H, W).

        Raises:
            ImageReadError: naming an image that cannot be read.
            ValueError: a label map of another size.
        """
        image = read_image(record["file_name"])
        return image, self.label_maps(record, image)

    def __call__(self, record: dict, position: int) -> dict:
        """The views of one image at one position of the run.

        Args:
            record: dataset dict with ``file_name``, ``image_id`` and, for regions from files, ``label_map_file_name``; not changed.
            position: k >= 0.

        Returns:
            ``views``: two dicts with ``image`` float32 (3, S, S) RGB in [0, 1], ``label_map`` int32 (S, S), ``box`` (4,) xyxy of the crop
            in the image, ``flip`` bool, ``draws`` float32 (M,) in [0, 1); ``file_name``, ``image_id``, ``width``, ``height`` of the image
            in pixels, ``position``, and ``label`` where the record has one.
        """
        image, label_map = self.read(record)
        height, width = label_map.shape
        geometry, photometric, draws = (position_rng(self.seed, position, s) for s in (Stream.GEOMETRY, Stream.PHOTOMETRIC, Stream.DRAWS))
        views = []
        for augmentation in self.photometric:
            view = self.geometry.sample_view(geometry, height, width)
            pixels = augmentation.sample(photometric).apply_image(view.apply_image(image))
            views.append(
                {
                    "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
                    "label_map": torch.from_numpy(view.apply_segmentation(label_map).astype(np.int32)),
                    "box": torch.from_numpy(view.box),
                    "flip": view.flip,
                    "draws": torch.from_numpy(draws.random(self.num_samples, dtype=np.float32)),
                }
            )
        sample = {"views": views, "width": width, "height": height, "position": position}
        return sample | {key: record[key] for key in ("file_name", "image_id", "label") if key in record}


def _photometric(aug: "d2.CfgNode", view: int) -> PhotometricAugmentation:
    return PhotometricAugmentation(
        operators=aug.OPERATORS,
        jitter_prob=_of_view(aug, "JITTER_PROB", view),
        strengths=(aug.BRIGHTNESS, aug.CONTRAST, aug.SATURATION, aug.HUE),
        gray_prob=_of_view(aug, "GRAY_PROB", view),
        blur_prob=_of_view(aug, "BLUR_PROB", view),
        blur_sigma=tuple(aug.BLUR_SIGMA),
        blur_kernel=aug.BLUR_KERNEL,
        solarize_prob=_of_view(aug, "SOLARIZE_PROB", view),
        solarize_threshold=aug.SOLARIZE_THRESHOLD,
    )


def _of_view(aug: "d2.CfgNode", key: str, view: int) -> float:
    if len(aug[key]) != 2:
        raise ValueError(f"DETCON.AUG.{key} is {aug[key]}; expected two probabilities, (view 1, view 2).")
    return aug[key][view]
