"""One image reader for mask generation and training, so that regions and pixels always belong to the same picture."""

import io
import os
import struct
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from detcon_d2.io.references import parse_image, read_range

# Modes whose samples are wider than 8 bits. Pillow itself reduces 16-bit RGB(A) and LA to their high byte while decoding.
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I")
# Formats in which Pillow's mode "I" means grey in 0..65535 (older Pillow for PNG; PPM always). In a TIFF it is a 32-bit integer.
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
# Modes in which Pillow gives the numbers of a label image as they are in the file.
_LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "RGB")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ImageReadError(ValueError):
    """An image file (``path``) that cannot be used, and why (``reason``, one line)."""

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

    Returns:
        uint8 (H, W, 3), RGB. Raises ImageReadError, which names the file and the reason.
    """
    try:
        with _open(path) as file, Image.open(file) as image:
            image.load()
            turn = _TRANSPOSE.get(_orientation(image))
            return np.array(_to_rgb(image if turn is None else image.transpose(turn)))
    except UnidentifiedImageError as error:
        raise ImageReadError(path, _why_unidentified(path)) from error
    except FileNotFoundError as error:
        raise ImageReadError(path, "no such file") from error
    except Exception as error:
        # Damaged files make the decoders raise almost any error (OSError, SyntaxError, struct.error, IndexError, MemoryError, ...).
        raise ImageReadError(path, str(error) or type(error).__name__) from error


def read_image_fast(path: str | os.PathLike) -> np.ndarray:
    """:func:`read_image`, for most JPEGs in two thirds of the time: OpenCV decodes complete 8-bit grey and RGB ones.

    The pixels are the same if Pillow and OpenCV both use libjpeg-turbo, as their wheels do: then both upsample colour smoothly and
    transform with the same integers. :func:`read_image` reads all other files, and those that OpenCV refuses. A JPEG that is
    damaged inside may be read although :func:`read_image` refuses it; a truncated one is not.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        with Image.open(io.BytesIO(data)) as header:  # without decoding the pixels
            plain, turn = header.format in ("JPEG", "MPO") and header.mode in ("L", "RGB"), _TRANSPOSE.get(_orientation(header))
    except Exception:  # as in read_image, which names the reason
        return read_image(path)
    # A file with another end may be truncated, which OpenCV does not report.
    if not plain or not data.endswith(b"\xff\xd9"):
        return read_image(path)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return read_image(path)
    return image if turn is None else np.array(Image.fromarray(image).transpose(turn))


def _orientation(image: Image.Image) -> int:
    """1..8, the EXIF orientation. Pillow turns TIFFs itself while loading and removes the tag."""
    try:
        return image.getexif().get(0x0112, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, OSError, struct.error):
        return 1  # the metadata are damaged, but the pixels were decoded without an error


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of what :func:`read_image` returns, without decoding it. Raises ImageReadError."""
    try:
        with _open(path) as file, Image.open(file) as image:
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception as error:
        raise ImageReadError(path, str(error) or type(error).__name__) from error


def read_labels(data: bytes) -> np.ndarray:
    """The numbers in a label image, as they are in the file: integer (H, W) of a grey or palette image, uint8 (H, W, 3) of an RGB image.
    Raises ValueError for a damaged image, or one of another kind."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, labels = image.mode, np.array(image)
    except Exception as error:  # as in read_image
        raise ValueError(f"found a damaged file ({error}); expected an image of labels") from error
    if mode not in _LABEL_MODES:
        raise ValueError(f"found an image of mode {mode}; expected 8 or 16 bits of label, a palette, or RGB without alpha")
    return labels


def _open(path: str | os.PathLike) -> BinaryIO:
    """A file, or an image in a tar."""
    place = parse_image(path)
    return open(path, "rb") if place is None else io.BytesIO(read_range(place))


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
    with _open(path) as file:
        start = file.read(16)
    if not start:
        return "the file is empty (0 bytes)"
    if start.startswith(_TIFF_MAGIC):
        return "a TIFF whose samples Pillow cannot read (floating point, 24-bit, ...); convert it to 8 or 16 bits per RGB or grey channel"
    return f"not an image that Pillow knows (the file begins with {start[:8]!r})"
