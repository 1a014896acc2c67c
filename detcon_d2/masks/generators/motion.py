"""Regions of what moves: foreground by optical flow between the frames of a clip, against the motion of the camera."""

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detcon_d2.io.folders import list_frames
from detcon_d2.io.images import read_image
from detcon_d2.masks.flow import optical_flow
from detcon_d2.masks.generators.base import RegionGenerator, parameter, to_label_map


@dataclass(frozen=True, kw_only=True)
class MotionRegions(RegionGenerator):
    """Region 0 is the background, and each connected part that moves against it is a region of its own.

    A pixel moves if its optical flow (DIS) to the frame ``gap`` later differs from the median flow of the frame by more than
    ``least_motion`` pixels, and likewise to the frame ``gap`` earlier; at the ends of a clip there is one of them. The median is the motion
    of a camera that moves sideways, if most of the frame is background. (Pathak et al. 2017 have uNLC, which begins with the saliency of
    motion as well.)

    The image must be a frame in a folder of numbered frames (``video:/path``). When called, it raises ValueError for another image, a clip
    of one frame, or neighbours that cannot be read or have another size.
    """

    name = "motion"
    needs_frames = True
    of_whole_image = True
    gap: int = parameter(2, "frames between the two that are compared", at_least=1)
    least_motion: float = parameter(2.0, "motion against the background that counts, pixels per gap", above=0)
    min_area: float = parameter(0.002, "smaller parts are background, in parts of the image", at_least=0, at_most=1)
    flow_side: int = parameter(320, "longer side of the reduced frames that are compared, pixels; 0: not reduced", at_least=0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, record: dict | None = None) -> np.ndarray:
        moves = np.min([self._motion(image, neighbour) for neighbour in self._neighbours(record)], axis=0) > self.least_motion
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(moves.astype(np.uint8), connectivity=8)
        kept = statistics[:, cv2.CC_STAT_AREA] >= max(1, self.min_area * moves.size)
        kept[0] = False
        ids = np.zeros(count, np.int64)
        ids[kept] = np.arange(1, kept.sum() + 1)
        return to_label_map(ids[labels])

    def _neighbours(self, record: dict | None) -> list[np.ndarray]:
        """The frames ``gap`` before and after that of the record; of a clip that is too short for both, the one farthest away."""
        path = "" if record is None else os.fspath(record["file_name"])
        frames = _frames(os.path.dirname(path)) if os.path.isfile(path) else ()
        if path not in frames or len(frames) < 2:
            raise ValueError(
                f"motion: found an image in a folder with {len(frames)} numbered frames; expected a frame of a clip of at least 2: make "
                "the label maps of video:/path"
            )
        place = frames.index(path)
        places = [other for other in (place - self.gap, place + self.gap) if 0 <= other < len(frames)]
        places = places or [0 if place > len(frames) // 2 else len(frames) - 1]
        return [read_image(frames[other]) for other in places]

    def _motion(self, image: np.ndarray, neighbour: np.ndarray) -> np.ndarray:
        """float32 (H, W): the length of the flow without the median flow, pixels."""
        flow = optical_flow(image, neighbour, self.flow_side)
        return np.linalg.norm(flow - np.median(flow, axis=(0, 1)), axis=2)


@functools.lru_cache(maxsize=64)
def _frames(folder: str) -> tuple[str, ...]:
    """The frames of a clip, listed once for all of them."""
    return tuple(str(path) for path in list_frames(Path(folder)))
