"""Label images: the numbers are as in the file, and the void of Pascal VOC belongs to nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.io.labels import NO_LABEL, read_labels

LABELS = np.array([[0, 1, 1, 255], [0, 2, 255, 255]], np.uint8)


def palette_png(colour_of_255: tuple[int, int, int]) -> bytes:
    image = Image.fromarray(LABELS)
    image.putpalette([*range(255)] * 3 + list(colour_of_255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_255_is_void_only_where_it_has_the_colour_of_vocs_void():
    np.testing.assert_array_equal(read_labels(palette_png((224, 224, 191))), LABELS)
    found = read_labels(palette_png((224, 224, 192)))
    assert found.dtype == np.uint16 and found.tolist() == [[0, 1, 1, NO_LABEL], [0, 2, NO_LABEL, NO_LABEL]]


def test_the_outlines_in_vocs_masks_are_no_object(tmp_path):
    for folder in ("JPEGImages", "SegmentationObject"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (4, 2)).save(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "SegmentationObject" / "a.png").write_bytes(palette_png((224, 224, 192)))
    (record,) = read_annotated(f"masks:{tmp_path}/JPEGImages,{tmp_path}/SegmentationObject").records
    assert [one["bbox"] for one in record["annotations"]] == [[1, 0, 2, 1], [1, 1, 1, 1]]
    with pytest.raises(ValueError, match=r"found no xml file .*give masks:.*JPEGImages,.*SegmentationObject\)"):
        read_annotated(f"voc:{tmp_path}")
