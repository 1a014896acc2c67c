"""What the loader makes of one image: a sample is a pure function of the image, SEED and the position in the run.

Letters: (H, W) pixels of the image, S pixels per side of a view, (h, w) feature cells of a view, M sampled regions per view.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode

from detcon_d2.views.geometry import ViewAugmentation, ViewTransform
from detcon_d2.views.photometric import PhotometricAugmentation, PhotometricTransform
from detcon_d2.views.photometric_uint8 import apply_photometric_uint8
from detcon_d2.views.position import Stream, position_rng


class SampleMaker(ABC):
    """Makes the sample of one image. Workers and processes share nothing, so it must depend on its arguments alone.

    Attributes:
        needs_label_map: whether it is to be called with a label map.
        needs_partner: whether it is to be called with a fourth argument: another image of the data set, as the first.
        needs_frames: n >= 2: it is to be called with ``frames``, a list of n frames of one clip in the order of time, of which the image is
            the first; 0: it is not.
        frame_gaps: the least and the largest gap between two of these frames, frames; 0 for the largest: as the clip allows.
    """

    uses_regions: bool = False
    """Whether samples of this class have regions: then the data sets need label maps (DETCON.MASKS)."""
    needs_label_map: bool = False
    needs_partner: bool = False
    needs_frames: int = 0
    frame_gaps: tuple[int, int] = (1, 0)

    def partners(self, records: Sequence[dict]) -> np.ndarray:
        """Where images have a partner, the sorted indices int64 of those that may be one; by default all of the records."""
        return np.arange(len(records))

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
        mode: str = "exact",
        where: str = "worker",
    ):
        """
        Args:
            seed: >= 0.
            geometry, photometric: one per view.
            mode: "exact": float32 images; "fast": uint8 images.
            where: "worker": colours are applied here; "device": the sampled transform goes along with the resized view.

        Raises ValueError: another mode or place.
        """
        for key, value, choices in (("MODE", mode, ("exact", "fast")), ("WHERE", where, ("worker", "device"))):
            if value not in choices:
                raise ValueError(f"DETCON.AUG.{key} is {value!r}; expected {' or '.join(map(repr, choices))}.")
        self.seed = seed
        self.geometry = tuple(geometry)
        self.photometric = tuple(photometric)
        self.fast, self.on_device = mode == "fast", where == "device"

    @classmethod
    def from_config(cls, cfg: CfgNode, stride: int | None, /, **arguments) -> "TwoViews":
        """Reads DETCON.VIEWS, DETCON.AUG and SEED; a subclass adds ``arguments``.

        Raises ValueError for values outside their ranges, or a view that is smaller than one feature cell, with key, found and expected.
        """
        geometry, photometric = cls.augmentations(cfg)
        if stride is not None and (small := min(view.size for view in geometry)) < stride:
            raise ValueError(
                f"{cls.size_key(cfg, small)} is {small}; expected at least {stride} pixels, one cell of {cfg.DETCON.IN_FEATURE}. Raise it, "
                "or end the network earlier (DETCON.IN_FEATURE and MODEL.RESNETS.OUT_FEATURES)."
            )
        aug = cfg.DETCON.AUG
        return cls(seed=cfg.SEED, geometry=geometry, photometric=photometric, mode=aug.MODE, where=aug.WHERE, **arguments)

    @staticmethod
    def augmentations(cfg: CfgNode) -> tuple[list[ViewAugmentation], list[PhotometricAugmentation]]:
        """Geometry and colours of each view."""
        views = cfg.DETCON.VIEWS
        area, aspect = tuple(views.CROP_AREA), tuple(views.CROP_ASPECT)
        options = {"flip_prob": views.FLIP_PROB, "interpolation": views.INTERPOLATION, "crop_attempts": views.CROP_ATTEMPTS}
        geometry = ViewAugmentation(views.SIZE, area, aspect, **options)
        return [geometry] * 2, [PhotometricAugmentation.from_config(cfg.DETCON.AUG, view) for view in range(2)]

    @staticmethod
    def size_key(cfg: CfgNode, size: int) -> str:
        """The key that gives a view its ``size``, for messages."""
        return "DETCON.VIEWS.SIZE" if size == cfg.DETCON.VIEWS.SIZE else "DETCON.VIEWS.LOCAL.SIZE"

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """The crops of an image of this height and width in pixels at a position of the run, one per view."""
        rng = position_rng(self.seed, position, Stream.GEOMETRY)
        return [augmentation.sample_view(rng, height, width) for augmentation in self.geometry]

    def sample_photometric(self, position: int) -> list[PhotometricTransform]:
        """The changes of colours at a position of the run, one per view."""
        rng = position_rng(self.seed, position, Stream.PHOTOMETRIC)
        return [augmentation.sample(rng) for augmentation in self.photometric]

    def render(self, transforms: list[ViewTransform], image: np.ndarray, position: int) -> list[dict]:
        """Per view ``image`` (3, S, S), float32 in [0, 1] or, in the fast mode, uint8; ``box`` (4,) float32 xyxy of the crop in the image;
        ``flip`` bool; and on the device also ``photometric``, the transform that is still to be applied to the image."""
        return self.render_each(transforms, [image] * len(transforms), position)

    def render_each(self, transforms: list[ViewTransform], images: Sequence[np.ndarray], position: int) -> list[dict]:
        """As :meth:`render`, each view of an image of its own."""
        views = []
        for transform, photometric, image in zip(transforms, self.sample_photometric(position), images, strict=True):
            pixels = transform.apply_image_uint8(image) if self.fast else transform.apply_image(image)
            view = {"box": torch.from_numpy(transform.box), "flip": transform.flip}
            if self.on_device:
                view["photometric"] = photometric
            else:
                pixels = apply_photometric_uint8(photometric, pixels) if self.fast else photometric.apply_image(pixels)
            views.append({"image": to_planes(pixels)} | view)
        return views

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """The sample ``{"views": [view 1, view 2]}``; see :meth:`render`."""
        return {"views": self.render(self.sample_geometry(position, *image.shape[:2]), image, position)}


class OneView(TwoViews):
    """The first of the two views alone."""

    @staticmethod
    def augmentations(cfg: CfgNode) -> tuple[list[ViewAugmentation], list[PhotometricAugmentation]]:
        """Those of view 1."""
        geometry, photometric = TwoViews.augmentations(cfg)
        return geometry[:1], photometric[:1]


class MultiCrop(TwoViews):
    """Two large crops and DETCON.VIEWS.LOCAL.COUNT small ones, with the third value of each pair of DETCON.AUG, where there is one."""

    @staticmethod
    def augmentations(cfg: CfgNode) -> tuple[list[ViewAugmentation], list[PhotometricAugmentation]]:
        """Those of the large crops, then those of the small ones."""
        (geometry, photometric), local = TwoViews.augmentations(cfg), cfg.DETCON.VIEWS.LOCAL
        if local.COUNT < 0:
            raise ValueError(f"DETCON.VIEWS.LOCAL.COUNT is {local.COUNT}; expected a number of small crops, or 0.")
        small = replace(geometry[0], size=local.SIZE, crop_area=tuple(local.CROP_AREA))
        return geometry + [small] * local.COUNT, photometric + [PhotometricAugmentation.from_config(cfg.DETCON.AUG, 2)] * local.COUNT


class ShuffledViews(TwoViews):
    """Two views, and a random number whose order over the batch is that of the images in a shuffled forward pass (MoCo)."""

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """As :meth:`TwoViews.__call__`, with ``shuffle``, a float in [0, 1)."""
        return super().__call__(image, label_map, position) | {"shuffle": position_rng(self.seed, position, Stream.SHUFFLE).random()}


@dataclass(frozen=True)
class WholeImage:
    """Adds the whole image, without augmentation, and the random numbers that choose the first k-means centres (SOURCE kmeans).

    Attributes:
        seed: >= 0.
        size: side in pixels that the whole image is resized to; its aspect ratio is not kept.
        interpolation: a key of ``INTERPOLATIONS``.
        num_draws: the largest number of regions of the run.
        fast: whether to resize in 8 bits, as the fast views do.
    """

    seed: int
    size: int
    interpolation: str
    num_draws: int
    fast: bool = False

    def __call__(self, image: np.ndarray, position: int) -> dict[str, torch.Tensor]:
        """
        Args:
            image: uint8 (H, W, 3) RGB.
            position: k >= 0.

        Returns:
            ``full_image`` uint8 (3, size, size) RGB, ``kmeans_draws`` float32 (num_draws,) in [0, 1).
        """
        height, width = image.shape[:2]
        whole = ViewTransform(0, 0, width, height, flip=False, size=self.size, interpolation=self.interpolation)
        pixels = whole.apply_image_uint8(image) if self.fast else np.rint(whole.apply_image(image) * 255).astype(np.uint8)
        draws = position_rng(self.seed, position, Stream.KMEANS).random(self.num_draws, dtype=np.float32)
        return {"full_image": to_planes(pixels), "kmeans_draws": torch.from_numpy(draws)}


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
    def from_config(cls, cfg: CfgNode, stride: int | None, /, **arguments) -> "RegionViews":
        """As :meth:`TwoViews.from_config`, with DETCON.NUM_SAMPLES."""
        return super().from_config(cfg, stride, num_samples=cfg.DETCON.NUM_SAMPLES, stride=stride, **arguments)

    def __call__(self, image: np.ndarray, label_map: np.ndarray | None, position: int) -> dict:
        """Each view also has ``draws`` float32 (M,) in [0, 1) and, with a label map, ``cells`` int32 (h, w): the most frequent id of each
        feature cell; and ``regions`` int32 (): how many ids the view has, those without a cell too. A :class:`WholeImage` adds its tensors
        to the sample."""
        transforms = self.sample_geometry(position, *image.shape[:2])
        views = self.render(transforms, image, position)
        draws = position_rng(self.seed, position, Stream.DRAWS)
        for transform, view in zip(transforms, views, strict=True):
            view["draws"] = torch.from_numpy(draws.random(self.num_samples, dtype=np.float32))
            if label_map is not None:
                side = -(-transform.size // self.stride)
                cells, regions = transform.apply_cells(label_map, (side, side))
                view |= {"cells": torch.from_numpy(cells), "regions": torch.tensor(regions, dtype=torch.int32)}
        whole = {} if self.whole_image is None else self.whole_image(image, position)
        return {"views": views} | whole


class OneRegionView(RegionViews):
    """The first of the two views alone, with its regions."""

    augmentations = staticmethod(OneView.augmentations)


def to_planes(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) to (3, H, W), contiguous; four times as fast as NumPy's copy of a transposed array."""
    planes = np.empty((3, *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)
