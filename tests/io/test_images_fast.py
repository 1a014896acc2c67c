"""The fast reader gives the pixels, or the error, of the reader."""

import io
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from detcon_d2.io import images as reader_module
from detcon_d2.io.images import read_image_fast
from detcon_d2.masks import ImageReadError, read_image

PHOTO = Image.fromarray(skimage.data.astronaut()[100:197, 50:181])
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def outcome(read, path: Path) -> np.ndarray | str:
    try:
        return read(path)
    except ImageReadError as error:
        return str(error)


def assert_alike(path: Path) -> np.ndarray | str:
    expected, found = outcome(read_image, path), outcome(read_image_fast, path)
    np.testing.assert_array_equal(found, expected)
    return found


def jpeg(image: Image.Image = PHOTO, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def no_pillow(monkeypatch):
    """Pillow's decoder is out of reach."""
    monkeypatch.setattr(reader_module, "read_image", None)


@pytest.mark.parametrize("quality", [40, 75, 90, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_any_kind_have_the_same_pixels(tmp_path, quality, subsampling, progressive, mode):
    (tmp_path / "a.jpg").write_bytes(jpeg(PHOTO.convert(mode), quality=quality, subsampling=subsampling, progressive=progressive))
    image = assert_alike(tmp_path / "a.jpg")
    assert image.shape == (97, 131, 3) and image.dtype == np.uint8 and image.flags.writeable


def test_usual_jpegs_do_not_take_the_slow_way(tmp_path, no_pillow):
    for number, options in enumerate(({}, {"progressive": True}, {"icc_profile": b"profile" * 20}, {"comment": b"text"})):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(**options))
        assert read_image_fast(tmp_path / f"{number}.jpg").shape == (97, 131, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, no_pillow, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(jpeg(exif=exif))
    np.testing.assert_array_equal(read_image_fast(tmp_path / "a.jpg"), read_image(tmp_path / "a.jpg"))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("options", [{"xmp": XMP}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12garbage"}, {"exif": b""}])
def test_other_metadata_mean_what_they_mean_to_the_reader(tmp_path, options):
    (tmp_path / "a.jpg").write_bytes(jpeg(**options))
    image = assert_alike(tmp_path / "a.jpg")
    assert image.shape == ((131, 97, 3) if "xmp" in options else (97, 131, 3))
