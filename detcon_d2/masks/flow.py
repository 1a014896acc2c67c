"""Dense optical flow between two frames, by OpenCV's DIS (Kroeger et al., ECCV 2016), on the CPU."""

import cv2
import numpy as np

_LEAST_SIDE = 192  # of what DIS is given: in smaller frames its patches of 8 px reach over the edges of objects
_LEAST_SIDE_FAST = 64


def optical_flow(first: np.ndarray, second: np.ndarray, side: int = 0, *, fast: bool = False) -> np.ndarray:
    """By how many pixels (x, y) what each pixel of ``first`` shows moves until ``second``.

    Args:
        first, second: uint8 (H, W, 3) RGB.
        side: longer side of the reduced frames that are compared, pixels; 0: the frames as they are. If the shorter side is below 192 px,
            64 with ``fast``, they are enlarged to that.
        fast: only as much as the mean motion of a frame needs, several times as fast.

    Returns:
        float32 (H, W, 2), pixels of the frames. Raises ValueError: frames of different sizes.
    """
    if first.shape != second.shape:
        found = " and ".join(f"{frame.shape[1]} x {frame.shape[0]}" for frame in (first, second))
        raise ValueError(f"found frames of {found} pixels (width x height); expected the same size: they are not of one clip")
    height, width = first.shape[:2]
    factor = min(1.0, side / max(height, width)) if side else 1.0
    factor = max(factor, (_LEAST_SIDE_FAST if fast else _LEAST_SIDE) / min(height, width))
    size = round(width * factor), round(height * factor)
    greys = [cv2.resize(cv2.cvtColor(one, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA) for one in (first, second)]
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST if fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if not fast:
        method.setFinestScale(0)
    flow = cv2.resize(method.calc(*greys, None), (width, height), interpolation=cv2.INTER_LINEAR)
    return flow * np.array([width / size[0], height / size[1]], np.float32)
