"""From a record to the two views that the model gets."""

import numpy as np
import torch

from detcon_d2 import d2
from detcon_d2.config import kmeans_settings
from detcon_d2.data.label_maps import LabelMapSource
from detcon_d2.views.full_image import FullImage
from detcon_d2.views.geometry import ViewAugmentation
from detcon_d2.views.photometric import PhotometricAugmentation
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.render import ViewRenderer


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
        label_maps: LabelMapSource | None,
        full_image: FullImage | None = None,
        renderer: ViewRenderer | None = None,
    ):
        """
        Args:
            seed: >= 0.
            num_samples: M, numbers drawn for a view, from which the model draws region ids.
            geometry: of both views.
            photometric: of view 1 and of view 2.
            label_maps: gives the regions of a record; None: the model learns them.
            full_image: adds to each sample the whole image, from which it does so.
            renderer: makes the model's input of what was drawn; None: exactly, in the loader.
        """
        self.seed = seed
        self.num_samples = num_samples
        self.geometry = geometry
        self.photometric = photometric
        self.label_maps = label_maps
        self.full_image = full_image
        self.renderer = renderer or ViewRenderer()

    @classmethod
    def from_config(cls, cfg: "d2.CfgNode") -> dict:
        """Arguments from DETCON.VIEWS, AUG, MASKS and SEED.

        Raises:
            ValueError: for values outside their ranges, with key, found and expected.
        """
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; expected 'RGB', the order of the views and of MODEL.PIXEL_MEAN.")
        views, masks, learned = cfg.DETCON.VIEWS, cfg.DETCON.MASKS, kmeans_settings(cfg)
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
            "label_maps": None
            if learned
            else LabelMapSource(masks.GRID if masks.SOURCE == "grid" else None, layer=masks.LAYER, seed=cfg.SEED),
            "full_image": FullImage(cfg) if learned and not learned.refresh_epochs else None,
            "renderer": ViewRenderer(cfg),
        }

    def read(self, record: dict, position: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Image uint8 (H, W, 3) RGB and label map uint16 (H, W) at a position of the run, None where the model learns it.

        Raises:
            ImageReadError: naming an image that cannot be read.
            ValueError: a label map of another size.
        """
        image = self.renderer.read_image(record["file_name"])
        return image, self.label_maps(record, image, position) if self.label_maps else None

    def __call__(self, record: dict, position: int) -> dict:
        """The views of one image at one position of the run.

        Args:
            record: dataset dict with ``file_name``, ``image_id`` and, for regions from files, ``label_map_file_name``; not changed.
            position: k >= 0.

        Returns:
            ``views``: two dicts with what :class:`ViewRenderer` makes (``image`` float32 (3, S, S) RGB in [0, 1] and ``label_map`` int32
            (S, S), or their fast forms), ``box`` (4,) xyxy of the crop in the image, ``flip`` bool, ``draws`` float32 (M,) in [0, 1);
            ``file_name``, ``image_id``, ``width``, ``height`` of the image in pixels, ``position``, and ``label`` and ``index`` where the
            record has them. Where the model learns the regions, there is no ``label_map``, and with a :class:`FullImage` there are its
            ``full_image`` and ``kmeans_draws``.
        """
        image, label_map = self.read(record, position)
        height, width = image.shape[:2]
        geometry, photometric, draws = (position_rng(self.seed, position, s) for s in (Stream.GEOMETRY, Stream.PHOTOMETRIC, Stream.DRAWS))
        views = []
        for augmentation in self.photometric:
            view = self.geometry.sample_view(geometry, height, width)
            views.append(
                self.renderer(view, augmentation.sample(photometric), image, label_map)
                | {
                    "box": torch.from_numpy(view.box),
                    "flip": view.flip,
                    "draws": torch.from_numpy(draws.random(self.num_samples, dtype=np.float32)),
                }
            )
        sample = {"views": views, "width": width, "height": height, "position": position}
        if self.full_image is not None:
            sample |= self.full_image(image, position)
        return sample | {key: record[key] for key in ("file_name", "image_id", "label", "index") if key in record}


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
