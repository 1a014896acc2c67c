"""The built-in data set "photos": upright crops of photographs, whose orientation, layout and colours mean something.

Training images are from one half of each photograph, held-out images from the other. Nothing is downloaded.
"""

from pathlib import Path

import cv2
import numpy as np

from detcon_d2.io.atomic import write_bytes_atomically
from detcon_d2.quickstart.shapes_textures import load_half

PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "coffee", "horse", "motorcycle_left", "page", "rocket")
"""Images of scikit-image with an up and a down; each is a class folder."""
SPLITS = {"train": 2400, "val": 1200}
"""Numbers of images."""
_SIDES = (0.35, 1.0)  # of a crop, in parts of the shorter side of the half


def generate_photos(root: Path, size: int = 96) -> dict[str, Path]:
    """Write the data set as ``root/SPLIT/PHOTOGRAPH/NUMBER.png``, images uint8 of ``size`` pixels a side, or the splits that are missing.

    Image i of a split depends on the split, i and the size only. Returns the folders of both splits. Raises ValueError: an installation of
    scikit-image without one of the photographs.
    """
    folders = {split: root / split for split in SPLITS}
    for number, (split, count) in enumerate(SPLITS.items()):
        done = root / f"{split}-{size}.done"
        if done.exists():
            continue
        for index in range(count):
            name = PHOTOGRAPHS[index % len(PHOTOGRAPHS)]
            path = folders[split] / name / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop = crop_photo(load_half(name, split), size, np.random.default_rng([number, index, size]))
            write_bytes_atomically(path, cv2.imencode(".png", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes())
        done.touch()
    return folders


def crop_photo(photo: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photograph, uint8 (H, W, 3), as ``size`` pixels a side; enlarged only where the photograph is smaller."""
    height, width = photo.shape[:2]
    least = max(_SIDES[0], min(1.0, size / min(height, width)))
    side = round(min(height, width) * rng.uniform(least, _SIDES[1]))
    top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
    return cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
