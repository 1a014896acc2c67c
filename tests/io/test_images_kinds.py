"""Turned, wide, large and odd files: the annotations' size decides on EXIF, a stated rule on 16 bits, and nothing hangs."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.images import ImageReadError, Reading, image_size, read_image, read_image_fast
from detcon_d2.io.references import parse_image
from detcon_d2.io.tiles import read_record
from tests.conftest import PATIENCE, REPO

both = pytest.mark.parametrize("read", [read_image, read_image_fast])


def turned(path: Path, orientation: int) -> np.ndarray:
    """Write a picture of 20 x 30 stored pixels with this tag; returns the stored pixels."""
    stored = np.zeros((20, 30, 3), np.uint8)
    stored[:10, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, quality=100)
    return stored


@both
@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_annotations_for_the_stored_pixels_keep_them_and_all_others_get_the_shown_ones(tmp_path, extension, orientation, read):
    path = tmp_path / f"a.{extension}"
    stored = turned(path, orientation)
    shown = read(path)
    sides = (30, 20) if orientation >= 5 else (20, 30)
    assert shown.shape[:2] == image_size(path) == sides
    for size in (sides, (7, 9), None):
        np.testing.assert_array_equal(read(path, size), shown)
        assert image_size(path, size) == sides
    if orientation >= 5:
        assert np.abs(read(path, (20, 30)).astype(int) - stored).max() < 30 and image_size(path, (20, 30)) == (20, 30)
        assert read_record({"file_name": path, "height": 20, "width": 30}).shape == (20, 30, 3)


def png(samples: np.ndarray, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of 16 bits, of any colour type: neither Pillow nor OpenCV writes all of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)), *chunks, (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in [*parts, (b"IEND", b"")])


def ramp(bits: int, channels: int) -> np.ndarray:
    """From 0 to the largest number of this many bits, another ramp in each channel."""
    values = np.linspace(0, 2**bits - 1, 64).round().astype(np.uint16).reshape(8, 8)
    return np.dstack([values, values // 2, values[::-1]][:channels])


@pytest.mark.parametrize("bits", [8, 9, 12, 16])
@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (3, 2)])
def test_the_highest_bit_in_use_becomes_the_highest_of_eight(tmp_path, bits, channels, color_type):
    samples = ramp(bits, channels)
    (tmp_path / "a.png").write_bytes(png(samples, color_type))
    cv2.imwrite(str(tmp_path / "a.tif"), samples[..., ::-1])
    for name in ("a.png", "a.tif"):
        found = read_image(tmp_path / name)
        np.testing.assert_array_equal(found, np.broadcast_to(samples >> (bits - 8), (8, 8, 3)))
        assert len(np.unique(found[..., 0])) == 64


@pytest.mark.parametrize("color_type", [4, 6])
def test_wide_samples_with_alpha_are_composited_on_white(tmp_path, color_type):
    samples = ramp(12, 1 if color_type == 4 else 3)
    alpha = np.full((8, 8, 1), 65535, np.uint16)
    alpha[0] = 0
    (tmp_path / "a.png").write_bytes(png(np.dstack([samples, alpha]), color_type))
    expected = np.broadcast_to(samples >> 4, (8, 8, 3)).copy()
    expected[0] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_a_wide_colour_key_is_white(tmp_path):
    samples = ramp(12, 3)
    (tmp_path / "a.png").write_bytes(png(samples, 2, (b"tRNS", struct.pack(">HHH", *samples[3, 3].tolist()))))
    found = read_image(tmp_path / "a.png")
    assert found[3, 3].tolist() == [255, 255, 255] and found[2, 2].tolist() == (samples[2, 2] >> 4).tolist()


@pytest.mark.parametrize(("channels", "color_type"), [(1, 0), (3, 2)])
def test_a_given_range_is_linear_and_the_same_for_all_images(tmp_path, channels, color_type):
    samples = ramp(12, channels)
    (tmp_path / "a.png").write_bytes(png(samples, color_type))
    expected = np.rint((samples.clip(1000, 3000) - 1000.0) * 255 / 2000)
    found = read_image(tmp_path / "a.png", reading=Reading((1000, 3000))).astype(int)
    assert np.abs(found - expected).max() <= 1 and found.min() == 0 and found.max() == 255


def test_a_range_makes_floating_point_and_long_integers_readable(tmp_path):
    values = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, np.nan]], np.float32)
    Image.fromarray(values).save(tmp_path / "f.tif")
    Image.fromarray((np.nan_to_num(values) * 1000).astype(np.int32)).save(tmp_path / "i.tif")
    for name, high in (("f.tif", 1), ("i.tif", 1000)):
        with pytest.raises(ImageReadError, match=r"DETCON\.DATA\.WIDE_RANGE or --wide-range"):
            read_image(tmp_path / name)
        assert read_image(tmp_path / name, reading=Reading((0, high)))[..., 0].tolist() == [[0, 0, 128], [255, 255, 0]]


def add_tags(path: Path, *tags: tuple[int, int, int]) -> None:
    """Add tags (number, type, value) of two bytes to a little-endian TIFF, or replace them."""
    data = path.read_bytes()
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    entries = [data[start + 2 + 12 * i : start + 14 + 12 * i] for i in range(count)]
    by_number = {int.from_bytes(entry[:2], "little"): entry for entry in entries}
    by_number |= {number: struct.pack("<HHIHH", number, kind, 1, value, 0) for number, kind, value in tags}
    directory = struct.pack("<H", len(by_number)) + b"".join(by_number[number] for number in sorted(by_number)) + b"\0\0\0\0"
    path.write_bytes(data[:4] + struct.pack("<I", len(data)) + data[8:] + directory)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_wide_tiff_is_turned_as_others_are(tmp_path, orientation):
    narrow, wide = tmp_path / "n.tif", tmp_path / "w.tif"
    stored = turned(narrow, orientation)
    cv2.imwrite(str(wide), stored.astype(np.uint16)[..., ::-1] * 16, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    add_tags(wide, (0x0112, 3, orientation))  # OpenCV writes none
    for size in (None, (20, 30)):
        np.testing.assert_array_equal(read_image(wide, size), read_image(narrow, size))


@pytest.mark.parametrize("wrong", [{"wide_range": (1,)}, {"wide_range": (2, 2)}, {"max_pixels": -1}])
def test_options_that_make_no_sense_are_refused_by_their_keys(wrong):
    with pytest.raises(ValueError, match=r"DETCON\.DATA\.(WIDE_RANGE|MAX_PIXELS) is"):
        Reading(**wrong)


@both
@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_the_limit_of_pixels_can_be_raised_and_lowered(tmp_path, monkeypatch, read, extension):
    path = tmp_path / f"a.{extension}"
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(ImageReadError, match=r"64 x 64 pixels exceed the limit of 4095; set DETCON\.DATA\.MAX_PIXELS or --max-pixels"):
        read(path, reading=Reading(max_pixels=4095))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageReadError, match="--max-pixels"):
        read(path)
    assert read(path, reading=Reading(max_pixels=4096)).shape == (64, 64, 3)


def test_the_log_says_how_wide_samples_become_eight_bits_only_where_there_are_some(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(png(ramp(12, 3), 2))
    plain, wide = ({"file_name": str(tmp_path / name)} for name in ("a.png", "b.png"))
    assert Reading().describe([plain, {"file_name": "gone"}]) == []
    (line,) = Reading().describe([plain, wide])
    assert "0 .. its highest bit in use" in line and "DETCON.DATA.WIDE_RANGE" in line
    assert "7 .. 4095 become 0 .. 255" in Reading((7, 4095)).describe([plain, wide])[0]


@both
def test_pipes_and_devices_are_refused_without_a_wait(tmp_path, read):
    os.mkfifo(tmp_path / "a.jpg")
    for path in (tmp_path / "a.jpg", "/dev/zero"):
        with pytest.raises(ImageReadError, match="no file, but a folder, pipe or device"):
            read(path)


@both
def test_a_real_file_is_no_reference_into_a_tar(tmp_path, read):
    path = tmp_path / "x.tar#0+10:y.png"
    assert parse_image(path) is not None
    Image.new("RGB", (4, 5), (1, 2, 3)).save(path, "PNG")
    assert parse_image(path) is None and read(path).shape == (5, 4, 3)


@pytest.mark.parametrize("name", ["a\nb.png", "a\tb.png", "\x1b[31mred.png", "\udc80.png"])
def test_names_are_in_one_printable_line(tmp_path, name):
    with pytest.raises(ImageReadError) as caught:
        read_image(tmp_path / name)
    text = str(caught.value)
    assert text.isprintable() and text.encode() and "no such file" in text and caught.value.path == str(tmp_path / name)


def test_a_file_of_avif_is_an_image_where_pillow_reads_it(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "AVIF")
    (tmp_path / "a.avif").write_bytes(buffer.getvalue())
    assert np.abs(read_image(tmp_path / "a.avif").astype(int) - (200, 30, 30)).max() < 8


READ_ALL = """
import sys
from pathlib import Path
from PIL import Image
from detcon_d2.io.images import image_size, read_image, read_image_fast
Image.MAX_IMAGE_PIXELS = 600
for path in Path(sys.argv[1]).iterdir():
    for read in (read_image, read_image_fast, image_size):
        read(path)
        print(path.name)
"""


def test_unknown_tags_damaged_metadata_and_large_images_print_nothing(tmp_path):
    cv2.imwrite(str(tmp_path / "geo.tif"), ramp(12, 3), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    add_tags(tmp_path / "geo.tif", (33550, 3, 7), (42113, 3, 7))
    Image.new("RGB", (30, 30)).save(tmp_path / "large.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "damaged.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x03\x01\x12garbage")
    # In a process of its own, because pytest has its own filters of warnings.
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, cwd=REPO, timeout=PATIENCE)
    assert (done.stderr, done.stdout.count("\n")) == ("", 9)


@both
def test_what_a_decoder_refuses_is_said_in_words(tmp_path, read):
    path = tmp_path / "a.tif"
    Image.new("RGB", (64, 64)).save(path, compression="tiff_lzw")
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"\xff" * 40 + data[48:])
    with pytest.raises(ImageReadError, match="damaged, or of a kind that Pillow does not decode"):
        read(path)
