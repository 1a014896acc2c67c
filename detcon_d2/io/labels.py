"""Images whose pixels are numbers: of objects, or of regions."""

import io

import numpy as np
from PIL import Image

# Modes in which Pillow gives the numbers as they are in the file.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "RGB")
NO_LABEL = 65535
"""Of pixels that belong to nothing."""
_VOC_VOID = 255, [224, 224, 192]


def read_labels(data: bytes) -> np.ndarray:
    """The numbers in a label image: integer (H, W) of a grey or palette image, uint8 (H, W, 3) of an RGB image.

    They are as in the file, except for 255 in the palette of Pascal VOC, in which it is the colour of the void around objects (VOC's
    development kit; labelme writes the same): it becomes :data:`NO_LABEL`, and the array is uint16.

    Raises ValueError for a damaged image, or one of another kind.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, labels = image.mode, np.array(image)
            palette = image.getpalette() if mode == "P" else None
    except Exception as error:  # as in detcon_d2.io.images.read_image
        raise ValueError(f"found a damaged file ({error}); expected an image of labels") from error
    if mode not in _MODES:
        raise ValueError(f"found an image of mode {mode}; expected 8 or 16 bits of label, a palette, or RGB without alpha")
    void, colour = _VOC_VOID
    if palette and palette[3 * void : 3 * void + 3] == colour:
        return np.where(labels == void, np.uint16(NO_LABEL), labels)
    return labels
