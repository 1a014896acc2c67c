"""One image reader for mask generation and training, so that regions and pixels always belong to the same picture."""

import os
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

# Modes whose samples are wider than 8 bits. Pillow itself reduces 16-bit RGB(A) and LA to their high byte while decoding.
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Formats in which Pillow's mode "I" means grey in 0..65535 (older Pillow for PNG; PPM always). In a TIFF it is a true 32-bit integer.
_SIXTEEN_BIT_AS_I = ("PNG", "PPM")
# EXIF tag 0x0112. ImageOps.exif_transpose would rewrite the whole EXIF block as well, which fails where a tag in it is damaged.
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ImageReadError(ValueError):
    """An image file that cannot be used.

    Attributes:
        path: the file.
        reason: one line, why.
    """

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(path, reason)
        self.path = os.fspath(path)
        self.reason = " ".join(reason.split())

    def __str__(self) -> str:
        return f"cannot read image {self.path}: {self.reason}"


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read any common image file as the picture a viewer shows.

    - The EXIF orientation is applied (a damaged EXIF block counts as none), colour profiles are ignored.
    - Grey is repeated to three channels. 16-bit samples keep their high byte (scaled, never clipped).
    - Transparent pixels (RGBA, LA, palette or colour key) are composited on white.
    - CMYK JPEGs are taken as Adobe writes them, inverted, as Pillow, OpenCV and browsers do.
    - Of an animation or a multi-page TIFF the first frame is read.
    - Samples without a defined white (32-bit integer, floating point) are refused, and so are truncated and empty files. Images above
      Pillow's limit (2 x ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million pixels) are refused too; raise that value if you mean it.

    Holds no state: safe in threads and processes.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageReadError: names the file and the reason.
    """
    try:
        with Image.open(path) as image:
            image.load()
            rgb = np.array(_to_rgb(_apply_orientation(image)))
    except UnidentifiedImageError as error:
        raise ImageReadError(path, _why_unidentified(path)) from error
    except FileNotFoundError as error:
        raise ImageReadError(path, "no such file") from error
    except Exception as error:
        # Damaged files make the decoders raise nearly anything (OSError, SyntaxError, struct.error, IndexError, MemoryError, ...).
        raise ImageReadError(path, str(error) or type(error).__name__) from error
    return rgb


def _apply_orientation(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF block says. Pillow turns TIFFs itself while loading and removes the tag."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, OSError, struct.error):
        return image  # damaged metadata say nothing about the pixels, which were decoded without an error
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GREY:
        return _wide_grey_to_rgb(image)
    if image.mode == "F":
        raise ValueError("floating-point samples have no defined white; convert the file to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" and image.format not in _SIXTEEN_BIT_AS_I:
        raise ValueError("32-bit integer samples have no defined white; convert the file to 8 or 16 bits")
    values = np.array(image).astype(np.uint16)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)
    picture = (image.convert(straight) if straight else image).convert("RGBA")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def _why_unidentified(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        return "the file is empty (0 bytes)"
    if start.startswith(_TIFF_MAGIC):
        return "a TIFF whose samples Pillow cannot read (floating point, 24-bit, ...); convert it to 8 or 16 bits an RGB or grey channel"
    return f"not an image that Pillow knows (the file begins with {start[:8]!r})"
