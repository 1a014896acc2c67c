"""What the methods on clips share: the range of the gaps between frames, and views of frames between which nothing but time differs."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from detcon_d2 import d2
from detcon_d2.views.geometry import ViewAugmentation, ViewTransform
from detcon_d2.views.photometric import PhotometricAugmentation, PhotometricTransform
from detcon_d2.views.samplers import TwoViews


def check_gaps(key: str, gaps: tuple[int, ...]) -> tuple[bool, str, object, str]:
    """The row of ``check_config`` for a key with the least and the largest gap."""
    good = len(gaps) == 2 and gaps[0] >= 1 and (gaps[1] == 0 or gaps[1] >= gaps[0])
    return good, key, tuple(gaps), "(least, largest) gap in frames, 1 <= least <= largest; 0 for the largest: as the clip allows"


class Frames(TwoViews):
    """Views of frames with gaps between them."""

    def __init__(self, *, frame_gaps: tuple[int, int], **kwargs):
        """
        Args:
            frame_gaps: least and largest gap, see :class:`~detcon_d2.views.samplers.SampleMaker`.
            **kwargs: as for :class:`TwoViews`.
        """
        super().__init__(**kwargs)
        self.frame_gaps = frame_gaps


class SteadyFrames(Frames):
    """Frames as views with the same crop and the same colours, so that only what moves tells them apart."""

    num_views: ClassVar[int]

    @classmethod
    def augmentations(cls, cfg: "d2.CfgNode") -> tuple[list[ViewAugmentation], list[PhotometricAugmentation]]:
        """Those of view 1, for each frame."""
        geometry, photometric = TwoViews.augmentations(cfg)
        return geometry[:1] * cls.num_views, photometric[:1] * cls.num_views

    def sample_geometry(self, position: int, height: int, width: int) -> list[ViewTransform]:
        """One crop, for each frame."""
        return super().sample_geometry(position, height, width)[:1] * self.num_views

    def sample_photometric(self, position: int) -> list[PhotometricTransform]:
        """One change of colours, for each frame."""
        return super().sample_photometric(position)[:1] * self.num_views

    def views_of(self, frames: Sequence[np.ndarray], position: int) -> list[dict]:
        """A view of each of ``num_views`` frames, uint8 (H, W, 3); see :meth:`render`."""
        transforms = [self.sample_geometry(position, *frame.shape[:2])[0] for frame in frames]
        return self.render_each(transforms, frames, position)
