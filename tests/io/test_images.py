"""Every kind of image file is read as a viewer shows it, or refused by name."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detcon_d2.io.images import read_image_fast
from detcon_d2.masks import ImageReadError, read_image

both = pytest.mark.parametrize("read", [read_image, read_image_fast])
RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(height: int = 24, width: int = 32) -> np.ndarray:
    """Red above, blue below; the lower right quarter is green."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2], image[height // 2 :] = RED, BLUE
    image[height // 2 :, width // 2 :] = (0, 255, 0)
    return image


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("extension", ["png", "bmp", "gif", "tif", "ppm", "webp"])
def test_lossless_formats_give_the_exact_pixels_of_the_first_frame(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    if extension in ("gif", "tif", "webp"):
        options |= {"save_all": True, "append_images": [Image.new("RGB", (32, 24), BLUE)]}
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(two_halves()), **options)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.flags.writeable
    np.testing.assert_array_equal(image, two_halves())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_the_exif_orientation_is_applied(tmp_path, orientation, extension):
    shown = two_halves()
    # How a camera stores the picture so that a viewer with this tag shows it upright.
    turned = shown.transpose(1, 0, 2), np.rot90(shown, 1), shown[::-1, ::-1].transpose(1, 0, 2), np.rot90(shown, -1)
    stored = (shown, shown[:, ::-1], shown[::-1, ::-1], shown[::-1], *turned)[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, quality=95)
    image = read_image(path).astype(int)
    assert image.shape == shown.shape
    assert np.abs(image - shown)[::4, ::4].mean() < 12


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA"])
def test_grey_palette_and_opaque_alpha_keep_their_colours(tmp_path, mode):
    grey = np.zeros((8, 8), np.uint8)
    grey[:4] = 255
    image = read_image(saved(tmp_path / "a.png", Image.fromarray(grey).convert(mode)))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(("extension", "mode"), [("png", "RGB"), ("png", "P"), ("gif", "P")])
def test_a_transparent_colour_is_white(tmp_path, extension, mode):
    picture = Image.fromarray(two_halves()).convert(mode, palette=Image.Palette.ADAPTIVE)
    image = read_image(saved(tmp_path / f"a.{extension}", picture, transparency=picture.getpixel((0, 0))))
    assert image[0, 0].tolist() == [255, 255, 255] and image[-1, 0].tolist() == list(BLUE)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(tmp_path, mode):
    picture = Image.fromarray(np.full((4, 4, 4), (0, 0, 0, 0), np.uint8)).convert(mode)
    picture.putpixel((0, 0), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 51) if mode == "RGBA" else (0, 51))
    image = read_image(saved(tmp_path / "a.png", picture))
    assert image[0, 0].tolist() == [0, 0, 0]
    assert image[0, 1].tolist() == [204, 204, 204]
    assert (image[1:] == 255).all()


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, extension, channels):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    cv2.imwrite(str(tmp_path / f"a.{extension}"), ramp if channels == 1 else np.dstack([ramp, ramp, ramp]))
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{extension}"), np.dstack([ramp >> 8] * 3))


def test_a_transparent_sixteen_bit_grey_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 300], [300, 65535]], np.uint16))
    assert read_image(saved(tmp_path / "a.png", picture, transparency=300))[..., 0].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_has_the_right_colours(tmp_path, extension):
    options = {"quality": 95} if extension == "jpg" else {}
    path = saved(tmp_path / f"a.{extension}", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), **options)
    # Pillow writes CMYK JPEGs as Adobe does: inverted, with Adobe's marker.
    assert extension == "tif" or b"Adobe" in path.read_bytes()
    assert np.abs(read_image(path).astype(int) - RED).max() < 6


@pytest.mark.parametrize(
    ("mode", "reason"), [("F", "floating-point samples have no defined white"), ("I", "signed or 32-bit integer samples have no")]
)
def test_samples_without_a_white_are_refused(tmp_path, mode, reason):
    path = saved(tmp_path / "a.tif", Image.new(mode, (8, 8), 7))
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_image(path)
    assert caught.value.path == str(path) and str(path) in str(caught.value)
    cv2.imwrite(str(path), np.ones((8, 8, 3), np.float32))
    with pytest.raises(ImageReadError, match="floating point"):
        read_image(path)


@both
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"not an image at all", "not an image"), (b"\xff\xd8\xff\xe0", "cannot read image"), (None, "no such file")],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path, content, reason, read):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageReadError, match=reason):
        read(path)
    with pytest.raises(ImageReadError):
        read(tmp_path)


@both
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, read, extension):
    path = saved(tmp_path / f"a.{extension}", Image.new("RGB", (64, 64)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2 - 1)
    with pytest.raises(ImageReadError, match="exceeds limit"):
        read(path)


def photo_bytes(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(buffer, file_format)
    return buffer.getvalue()


@both
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_truncated_files_are_refused_wherever_they_end(tmp_path, file_format, read):
    data = photo_bytes(file_format)
    for fraction in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        (tmp_path / "a").write_bytes(data[: int(len(data) * fraction)])
        with pytest.raises(ImageReadError):
            read(tmp_path / "a")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@given(
    position=st.floats(0, 1, exclude_max=True),
    junk=st.binary(min_size=1, max_size=40),
    file_format=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]),
)
@both
@settings(max_examples=60)
def test_damaged_files_give_an_image_or_an_image_read_error(tmp_path, read, position, junk, file_format):
    data = bytearray(photo_bytes(file_format))
    start = int(position * len(data))
    data[start : start + len(junk)] = junk
    (tmp_path / "a").write_bytes(data)
    try:
        image = read(tmp_path / "a")
    except ImageReadError as error:
        assert error.reason and "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(two_halves()), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12garbage")
    np.testing.assert_array_equal(read_image(path), two_halves())


@pytest.mark.filterwarnings("ignore:Metadata Warning")
def test_a_damaged_tag_beside_the_orientation_does_not_cost_the_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, (72, 1)
    block = exif.tobytes()
    # The resolution becomes a width, of a type that Pillow would not be able to write again.
    damaged = block.replace(b"\x01\x1a\x00\x05", b"\x01\x00\x00\x05")
    assert damaged != block
    Image.fromarray(two_halves()).save(tmp_path / "a.jpg", exif=damaged, quality=95)
    assert read_image(tmp_path / "a.jpg").shape == (32, 24, 3)
