"""What the loader makes of one image: a sample is a pure function of the image, SEED and the position in the run.

Letters: (H, W) pixels of the image, S pixels per side of a view, (h, w) feature cells of a view, M sampled regions per view.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from fvcore.common.config import CfgNode

from detcon_d2.views.geometry import ViewAugmentation, ViewTransform
from detcon_d2.views.photometric import PhotometricAugmentation
from detcon_d2.views.position import Stream, position_rng
from detcon_d2.views.render import ViewRenderer
from detcon_d2.views.whole_image import WholeImage


class SampleMaker(ABC):
    """Makes the sample of one image. Workers and processes share nothing, so it must depend on its arguments alone.

    Attributes:
        needs_label_map: whether it is to be called with a label map.
    """

    uses_regions: bool = False
    """Whether samples of this class have regions: then the data sets need label maps (DETCON.MASKS)."""
    needs_label_map: bool = False

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, stride: int) -> "SampleMaker":
        """
        Args:
            cfg: the resolved config.
            stride: pixels per feature cell of the model's encoder, along each side.
        """

    @abstractmethod
    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """
        Args:
            image: uint8 (H, W, 3) RGB; not changed.
            label_map: uint16 (H, W), where :attr:`needs_label_map`.
            position: k >= 0.

        Returns:
            ``views``: a list of dicts, each with ``image`` (3, S, S) RGB, float32 in [0, 1] or uint8; further tensors as the method needs.
        """


class TwoViews(SampleMaker):
    """Two crops of the image with their own colours (DETCON.VIEWS, DETCON.AUG)."""

    def __init__(
        self,
        *,
        seed: int,
        geometry: Sequence[ViewAugmentation],
        photometric: Sequence[PhotometricAugmentation],
        renderer: ViewRenderer | None = None,
    ):
        """
        Args:
            seed: >= 0.
            geometry: one per view.
            photometric: one per view.
            renderer: makes the pixels; by default exactly, in the loader.
        """
        self.seed = seed
        self.geometry = tuple(geometry)
        self.photometric = tuple(photometric)
        self.renderer = renderer or ViewRenderer()

    @classmethod
    def from_config(cls, cfg: CfgNode, stride: int) -> "TwoViews":
        """Reads DETCON.VIEWS, DETCON.AUG and SEED.

        Raises:
            ValueError: for values outside their ranges, with key, found and expected.
        """
        return cls(**cls.arguments(cfg))

    @staticmethod
    def arguments(cfg: CfgNode) -> dict:
        """The arguments of the constructor from a config."""
        views = cfg.DETCON.VIEWS
        geometry = ViewAugmentation(
            size=views.SIZE,
            crop_area=tuple(views.CROP_AREA),
            crop_aspect=tuple(views.CROP_ASPECT),
            flip_prob=views.FLIP_PROB,
            interpolation=views.INTERPOLATION,
        )
        return {
            "seed": cfg.SEED,
            "geometry": (geometry, geometry),
            "photometric": [PhotometricAugmentation.from_config(cfg.DETCON.AUG, view) for view in range(2)],
            "renderer": ViewRenderer(mode=cfg.DETCON.AUG.MODE, where=cfg.DETCON.AUG.WHERE),
        }

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The crops of an image of this height and width in pixels at a position of the run, one per view."""
        rng = position_rng(self.seed, position, Stream.GEOMETRY)
        return [augmentation.sample_view(rng, height, width) for augmentation in self.geometry]

    def render(self, transforms: list[ViewTransform], image: np.ndarray, position: int) -> list[dict]:
        """The views' ``image``, ``box`` (4,) float32 xyxy of the crop in the image, and ``flip`` bool."""
        rng = position_rng(self.seed, position, Stream.PHOTOMETRIC)
        return [
            self.renderer(transform, augmentation.sample(rng), image) | {"box": torch.from_numpy(transform.box), "flip": transform.flip}
            for transform, augmentation in zip(transforms, self.photometric, strict=True)
        ]

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The sample ``{"views": [view 1, view 2]}``; see :meth:`render`."""
        return {"views": self.render(self.sample_geometry(position, *image.shape[:2]), image, position)}


class OneView(TwoViews):
    """The first of the two views alone."""

    @staticmethod
    def arguments(cfg: CfgNode) -> dict:
        """The arguments of the constructor from a config."""
        args = TwoViews.arguments(cfg)
        return args | {key: args[key][:1] for key in ("geometry", "photometric")}


class MultiCrop(TwoViews):
    """Two large crops and DETCON.VIEWS.LOCAL.COUNT small ones, with the third value of each pair of DETCON.AUG, where there is one."""

    @staticmethod
    def arguments(cfg: CfgNode) -> dict:
        """The arguments of the constructor from a config."""
        args, local = TwoViews.arguments(cfg), cfg.DETCON.VIEWS.LOCAL
        if local.COUNT < 0:
            raise ValueError(f"DETCON.VIEWS.LOCAL.COUNT is {local.COUNT}; expected a number of small crops, or 0.")
        large = args["geometry"][0]
        small = large.resized(local.SIZE, tuple(local.CROP_AREA))
        photometric = PhotometricAugmentation.from_config(cfg.DETCON.AUG, 2)
        return args | {
            "geometry": (large, large, *[small] * local.COUNT),
            "photometric": [*args["photometric"], *[photometric] * local.COUNT],
        }


class ShuffledViews(TwoViews):
    """Two views, and a random number whose order over the batch is that of the images in a shuffled forward pass (MoCo)."""

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """As :meth:`TwoViews.__call__`, with ``shuffle``, a float in [0, 1)."""
        return super().__call__(image, label_map, position) | {"shuffle": position_rng(self.seed, position, Stream.SHUFFLE).random()}


class RegionViews(TwoViews):
    """Two views with their regions, reduced to feature cells, and random numbers from which the model samples region ids."""

    uses_regions = True

    def __init__(self, *, num_samples: int, stride: int | None, whole_image: WholeImage | None = None, **kwargs):
        """
        Args:
            num_samples: M.
            stride: pixels per feature cell; None where the model learns the regions, so that views have no ``cells``.
            whole_image: adds the whole image to each sample.
            **kwargs: as for :class:`TwoViews`.
        """
        super().__init__(**kwargs)
        self.num_samples = num_samples
        self.stride = stride
        self.whole_image = whole_image

    @property
    def needs_label_map(self) -> bool:
        """Whether regions come with the image."""
        return self.stride is not None

    @classmethod
    def from_config(cls, cfg: CfgNode, stride: int | None, whole_image: WholeImage | None = None) -> "RegionViews":
        """As :meth:`TwoViews.from_config`, with DETCON.NUM_SAMPLES."""
        return cls(num_samples=cfg.DETCON.NUM_SAMPLES, stride=stride, whole_image=whole_image, **cls.arguments(cfg))

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """Each view also has ``draws`` float32 (M,) in [0, 1) and, with a label map, ``cells`` int32 (h, w): the most frequent id of each
        feature cell. A :class:`WholeImage` adds its tensors to the sample."""
        transforms = self.sample_geometry(position, *image.shape[:2])
        views = self.render(transforms, image, position)
        draws = position_rng(self.seed, position, Stream.DRAWS)
        for transform, view in zip(transforms, views, strict=True):
            view["draws"] = torch.from_numpy(draws.random(self.num_samples, dtype=np.float32))
            if label_map is not None:
                side = -(-transform.size // self.stride)
                view["cells"] = torch.from_numpy(transform.apply_cells(label_map, (side, side)))
        whole = {} if self.whole_image is None else self.whole_image(image, position)
        return {"views": views} | whole
