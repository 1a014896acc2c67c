"""One image reader for all tools, so that regions, annotations and pixels always belong to the same picture."""

import contextlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from detcon_d2.io.names import printable
from detcon_d2.io.references import parse_image, read_range

# Modes whose samples are wider than 8 bits.
_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
# Raw modes of colours with 16 bits, which Pillow reduces to their high byte while it decodes.
_WIDE_COLOR = re.compile(r"(RGB|RGBA|RGBX|LA);16[BLN]")
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
_BACK = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_FAST_PIXELS = 2**30  # OpenCV refuses larger images
# Pillow warns of damaged metadata, odd palettes and large images, which changes no pixel. The texts differ from image to image, so Python
# would print one for each image of a data set.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Reading:
    """How image files become 8-bit pixels. Raises ValueError for values that make no sense.

    Attributes:
        wide_range: DETCON.DATA.WIDE_RANGE. (low, high): samples wider than 8 bits become 0 at ``low`` and 255 at ``high``, linear between
            them. (): the highest bit that an image uses becomes the highest of 8 bits, and the lower ones are dropped: 12-bit data lose
            their 4 lowest bits, data that use all of 16 bits their low byte.
        max_pixels: DETCON.DATA.MAX_PIXELS, the limit of an image in pixels. 0: Pillow's, 2 x ``PIL.Image.MAX_IMAGE_PIXELS``, which is 179
            million. A higher one also raises Pillow's, for the whole process.
        tiles: DETCON.DATA.TILES, the side in pixels of the tiles that larger images are cut into (:mod:`detcon_d2.io.tiles`); 0: none.
    """

    wide_range: tuple[float, ...] = ()
    max_pixels: int = 0
    tiles: int = 0

    def __post_init__(self) -> None:
        if len(self.wide_range) not in (0, 2) or (self.wide_range and not self.wide_range[0] < self.wide_range[1]):
            raise ValueError(f"DETCON.DATA.WIDE_RANGE is {self.wide_range}; expected (low, high) with low < high, or () for the rule.")
        if self.max_pixels < 0:
            raise ValueError(f"DETCON.DATA.MAX_PIXELS is {self.max_pixels}; expected a number of pixels, or 0 for Pillow's limit.")
        if self.tiles != 0 and self.tiles < 64:  # less is most likely meant as a number of tiles
            expected = "the side of the tiles in pixels, at least 64, or 0 for whole images"
            raise ValueError(f"DETCON.DATA.TILES is {self.tiles}; expected {expected}.")

    def describe(self, records: Sequence[dict]) -> list[str]:
        """Lines for the log: on tiles, and on samples wider than 8 bits, if one of eight evenly spaced images has them."""
        cut = [record["file_name"] for record in records if "tile" in record]
        text = f"{len(set(cut))} larger images are cut into {len(cut)} tiles of {self.tiles} px (DETCON.DATA.TILES, --tiles)."
        lines = [text] if cut else []
        for record in records[:: max(len(records) // 8, 1)]:
            # An image that cannot be read is reported where it is used.
            with contextlib.suppress(Exception), _open(record["file_name"]) as file, self.open_header(file) as image:
                if image.mode in _WIDE_GREY or _is_wide_color(image):
                    low, high = self.wide_range or ("0", "its highest bit in use, image by image")
                    return [*lines, f"Samples wider than 8 bits: {low} .. {high} become 0 .. 255 (DETCON.DATA.WIDE_RANGE, --wide-range)."]
        return lines

    def open_header(self, file: BinaryIO) -> Image.Image:
        """The image, not decoded yet. Raises ValueError or Pillow's DecompressionBombError for one that is too large."""
        if self.max_pixels and Image.MAX_IMAGE_PIXELS is not None:
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, self.max_pixels)
        image = Image.open(file)
        if self.max_pixels and image.width * image.height > self.max_pixels:
            image.close()
            raise Image.DecompressionBombError(f"its {image.width} x {image.height} pixels exceed the limit of {self.max_pixels}")
        return image

    def to_eight_bits(self, samples: np.ndarray) -> np.ndarray:
        """uint8 of samples of any type, as ``wide_range`` says; the rule for none is for integers >= 0."""
        if not self.wide_range:
            return (samples >> max(int(samples.max(initial=0)).bit_length() - 8, 0)).astype(np.uint8)
        low, high = self.wide_range
        shifted = np.nan_to_num(samples.astype(np.float32), nan=low).clip(low, high) - np.float32(low)
        return np.rint(shifted * np.float32(255 / (high - low))).astype(np.uint8)


PLAIN = Reading()


class ImageReadError(ValueError):
    """An image file (``path``) that cannot be used, and why (``reason``, one line)."""

    def __init__(self, path: str | os.PathLike, reason: str) -> None:
        super().__init__(path, reason)
        self.path = os.fspath(path)
        self.reason = printable(" ".join(reason.split()))

    def __str__(self) -> str:
        return f"cannot read image {printable(self.path)}: {self.reason}"


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None, reading: Reading = PLAIN) -> np.ndarray:
    """Read any common image file as the picture a viewer shows.

    - The EXIF orientation is applied (a damaged EXIF block counts as none), colour profiles are ignored.
    - Grey is repeated to three channels. Samples wider than 8 bits are reduced as ``reading`` says.
    - Transparent pixels (RGBA, LA, palette or colour key) are composited on white.
    - CMYK JPEGs are taken as Adobe writes them, inverted, as Pillow, OpenCV and browsers do.
    - Of an animation or a multi-page TIFF the first frame is read.
    - 32-bit integer and floating-point samples have no defined white, and are refused without a range. Truncated and empty files are
      refused, and so is what is no file, such as a pipe.

    Args:
        path: a file, or a reference into a tar (:mod:`detcon_d2.io.references`).
        size: (height, width) that annotations are for. If it is that of the pixels as they are stored and not that of the picture as it
            is shown, then the annotations are for the stored pixels, and the EXIF orientation is not applied.
        reading: the options.

    Returns:
        uint8 (H, W, 3), RGB. Raises ImageReadError, which names the file and the reason.
    """
    try:
        with _open(path) as file, reading.open_header(file) as image:
            wide_color = _is_wide_color(image)
            # Pillow turns a TIFF itself while it loads it, and removes the tag.
            orientation = _orientation(image) if image.format == "TIFF" else None
            image.load()
            turn = _turn(image, orientation or _orientation(image), size)
            rgb = _to_rgb(image, reading) if not wide_color else _wide_color_to_rgb(image, path, reading)
            return np.array(rgb if turn is None else rgb.transpose(turn))
    except Exception as error:
        raise _read_error(path, error) from error


def read_image_fast(path: str | os.PathLike, size: tuple[int, int] | None = None, reading: Reading = PLAIN) -> np.ndarray:
    """:func:`read_image`, for most JPEGs in two thirds of the time: OpenCV decodes complete 8-bit grey and RGB ones.

    The pixels are the same if Pillow and OpenCV both use libjpeg-turbo, as their wheels do: then both upsample colour smoothly and
    transform with the same integers. :func:`read_image` reads all other files, and those that OpenCV refuses. A JPEG that is
    damaged inside may be read although :func:`read_image` refuses it; a truncated one is not.
    """
    try:
        with _open(path) as file:
            data = file.read()
        with reading.open_header(io.BytesIO(data)) as header:  # without decoding the pixels
            plain = header.format in ("JPEG", "MPO") and header.mode in ("L", "RGB") and header.width * header.height < _MAX_FAST_PIXELS
            turn = _turn(header, _orientation(header), size) if plain else None
    except Exception:  # as in read_image, which names the reason
        return read_image(path, size, reading)
    # A file with another end may be truncated, which OpenCV does not report.
    if not plain or not data.endswith(b"\xff\xd9"):
        return read_image(path, size, reading)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        return read_image(path, size, reading)
    return image if turn is None else np.array(Image.fromarray(image).transpose(turn))


def recorded_size(record: dict) -> tuple[int, int] | None:
    """(height, width) in a dataset dict, where it has them."""
    return (record["height"], record["width"]) if "height" in record and "width" in record else None


def image_size(path: str | os.PathLike, size: tuple[int, int] | None = None, reading: Reading = PLAIN) -> tuple[int, int]:
    """Height and width of what :func:`read_image` returns, without decoding it. Raises ImageReadError."""
    return image_header(path, size, reading)[0]


def image_header(path: str | os.PathLike, size: tuple[int, int] | None, reading: Reading) -> tuple[tuple[int, int], tuple[int, int], int]:
    """:func:`image_size`, the height and width of the pixels as they are stored, and the EXIF orientation, 1..8. Raises ImageReadError."""
    try:
        with _open(path) as file, reading.open_header(file) as image:
            # ImageLength and ImageWidth: newer versions of Pillow swap the sides of a TIFF before they load it.
            stored = (image.tag_v2[257], image.tag_v2[256]) if image.format == "TIFF" else (image.height, image.width)
            orientation = _orientation(image)
            return stored if size == stored or orientation < 5 else stored[::-1], stored, orientation
    except Exception as error:
        raise _read_error(path, error) from error


def _orientation(image: Image.Image) -> int:
    """1..8, the EXIF orientation."""
    try:
        orientation = image.getexif().get(0x0112, 1)
        return orientation if orientation in _TRANSPOSE else 1
    except (SyntaxError, ValueError, KeyError, TypeError, IndexError, OSError, struct.error):
        return 1  # the metadata are damaged, but the pixels were decoded without an error


def _turn(image: Image.Image, orientation: int, size: tuple[int, int] | None) -> Image.Transpose | None:
    """What is left to do with a loaded image of this EXIF orientation, if annotations are for ``size``. A TIFF is turned already."""
    done, (width, height) = image.format == "TIFF", image.size
    stored = (width, height) if done and orientation >= 5 else (height, width)
    if orientation >= 5 and size == stored != stored[::-1]:
        return _BACK[orientation] if done else None
    return None if done else _TRANSPOSE.get(orientation)


def _open(path: str | os.PathLike) -> BinaryIO:
    """A file, or an image in a tar. Raises OSError, and ValueError for a pipe or device, which could be read without end."""
    place = parse_image(path)
    if place is not None:
        return io.BytesIO(read_range(place))
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no file, but a folder, pipe or device")
    return open(path, "rb")


def _read_error(path: str | os.PathLike, error: Exception) -> ImageReadError:
    """Damaged files make the decoders raise almost any error (OSError, SyntaxError, struct.error, IndexError, MemoryError, ...)."""
    if isinstance(error, FileNotFoundError):
        return ImageReadError(path, "no such file")
    if isinstance(error, UnidentifiedImageError):
        return ImageReadError(path, _why_unidentified(path))
    reason = f"{error or type(error).__name__}".rstrip(".")
    if isinstance(error, Image.DecompressionBombError):
        reason += "; set DETCON.DATA.MAX_PIXELS or --max-pixels if you mean it"
    # Pillow's decoders raise an OSError without a number, of which "decoder error -2" is one.
    elif isinstance(error, OSError) and error.errno is None:
        reason = f"damaged, or of a kind that Pillow does not decode ({reason})"
    return ImageReadError(path, reason)


def _is_wide_color(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has colours, or grey with alpha, of 16 bits."""
    return any(_WIDE_COLOR.search(str(tile[3])) for tile in image.tile[:1])


def _to_rgb(image: Image.Image, reading: Reading) -> Image.Image:
    if image.mode in _WIDE_GREY:
        return _wide_grey_to_rgb(image, reading)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _wide_grey_to_rgb(image: Image.Image, reading: Reading) -> Image.Image:
    integers = image.mode != "I" or image.format in _SIXTEEN_BIT_AS_I
    if not reading.wide_range and (image.mode == "F" or not integers):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit integer"
        raise ValueError(
            f"{kind} samples have no defined white; convert the file to 8 or 16 bits, or set DETCON.DATA.WIDE_RANGE or --wide-range"
        )
    values = np.array(image)
    grey = reading.to_eight_bits(values.astype(np.uint16) if image.mode != "F" and integers else values)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


def _wide_color_to_rgb(image: Image.Image, path: str | os.PathLike, reading: Reading) -> Image.Image:
    """The loaded image with colours of 16 bits. OpenCV decodes it again where their high byte is not what ``reading`` asks for."""
    high = np.asarray(image)
    if not reading.wide_range and high[..., :3].max(initial=0) >= 128:
        return _to_rgb(image, reading)
    with _open(path) as file:
        data = np.frombuffer(file.read(), np.uint8)
    # OpenCV prints a line for each tag of a TIFF that it does not know, such as those of GeoTIFF, whenever it reads one.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    samples = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    cv2.utils.logging.setLogLevel(level)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3 or samples.shape[:2] != high.shape[:2]:
        raise ValueError("OpenCV cannot decode its colours of 16 bits; convert the file to 8 bits, or to 16-bit PNG")
    colors = reading.to_eight_bits(samples[..., 2::-1])
    if samples.shape[2] == 3:
        return Image.fromarray(colors)
    return _on_white(Image.fromarray(np.dstack([colors, (samples[..., 3] >> 8).astype(np.uint8)])))


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
    return f"damaged, or not an image that Pillow knows (the file begins with {start[:8]!r})"
