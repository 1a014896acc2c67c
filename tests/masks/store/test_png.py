"""PNGs of label maps: what goes in comes out, by this package and by others, and damage is always found."""

import io
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from zlib_ng import zlib_ng

from detcon_d2.masks.store import png
from detcon_d2.masks.store.png import decode_png, encode_png, is_intact, to_own_png

STACKS = hnp.arrays(
    np.uint16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12), elements=st.sampled_from([0, 1, 7, 255, 256, 1000, 65534, 65535])
)


@given(STACKS)
def test_every_layer_comes_back_and_other_programs_read_the_same(stack):
    data = encode_png(stack)
    for layer, label_map in enumerate(stack):
        found = decode_png(data, layer, len(stack))
        assert found.dtype == np.uint16 and found.flags.writeable
        np.testing.assert_array_equal(found, label_map)
    rows = stack.reshape(-1, stack.shape[2])
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), rows)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == ("L" if stack.max() <= 255 else "I;16")
        np.testing.assert_array_equal(np.array(image), rows)
    assert to_own_png(data, len(stack)) is data


@pytest.mark.parametrize("decompress", [zlib_ng.decompress, zlib.decompress])
def test_own_pngs_are_read_without_opencv_and_with_or_without_zlib_ng(monkeypatch, decompress):
    assert png.decompress is zlib_ng.decompress
    monkeypatch.setattr(png, "decompress", decompress)
    monkeypatch.setattr(png, "cv2", None)
    for high in (255, 300):
        stack = np.random.default_rng(0).integers(0, high, (3, 40, 60), dtype=np.uint16)
        data = encode_png(stack)
        for layer in (2, 0, 1):
            np.testing.assert_array_equal(decode_png(data, layer, 3), stack[layer])


@given(STACKS, st.booleans())
def test_pngs_of_other_programs_are_read_and_rewritten(stack, pillow):
    rows = stack.reshape(-1, stack.shape[2])
    data = write(rows) if pillow else cv2.imencode(".png", rows, (cv2.IMWRITE_PNG_COMPRESSION, 3))[1].tobytes()
    for layer, label_map in enumerate(stack):
        np.testing.assert_array_equal(decode_png(data, layer, len(stack)), label_map)
    assert to_own_png(data, len(stack)) in (encode_png(stack), data)


@given(STACKS, st.data())
def test_any_changed_or_missing_byte_is_found(stack, data):
    content = encode_png(stack)
    position, change = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(1, 255))
    changed = bytearray(content)
    changed[position] ^= change
    assert is_intact(content)
    for damaged in (bytes(changed), content[:position], content + b"\0"):
        assert not is_intact(damaged)
        with pytest.raises(ValueError, match="damaged"):
            decode_png(damaged)


def write(image: np.ndarray | Image.Image) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "png")
    return buffer.getvalue()


def made_of(width: int, height: int, *contents: bytes) -> bytes:
    """A PNG of one layer with these IDAT chunks."""
    header = png._chunk(b"IHDR", png._HEADER.pack(width, height, 8, 0, 0, 0, 0))
    return b"".join([png._SIGNATURE, header, *(png._chunk(b"IDAT", content) for content in contents), png._chunk(b"IEND", b"")])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"text", "damaged"),
        (write(np.zeros((4, 4, 3), np.uint8)), "8 bits, colour type 2; expected grey, 8 or 16 bits"),
        (write(Image.new("P", (4, 4))), "colour type 3"),
        (write(Image.new("1", (4, 4))), "1 bits"),
        (encode_png(np.zeros((1, 3, 4), np.uint16)), "found 3 rows; expected a multiple of its 2 layers"),
        (made_of(2**31 - 1, 2**30), "pixels"),
        (made_of(4, 4), "damaged"),
        (made_of(4, 4, b"\x78\x9cjunk", b"junk"), "damaged"),
    ],
)
def test_what_is_no_label_map_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_png(data, 0, 2)
