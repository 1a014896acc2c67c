"""Contact sheets: what is drawn where, and that nothing is cut."""

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import build_generator, list_images
from detcon_d2.masks.overlay import draw_sheet, fit, overlay_regions
from detcon_d2.masks.scoring.contact_sheet import SIDE, draw_rows, write_contact_sheet
from detcon_d2.masks.scoring.ground_truth import list_bsds


def picture(height: int = 30, width: int = 40) -> tuple[np.ndarray, str]:
    return fit(np.full((height, width, 3), 120, np.uint8), SIDE), "a/b.png"


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (1, 1), (2, 900), (900, 2), (700, 500)])
def test_images_of_any_shape_fit(height, width):
    long = "hierarchy " + "regions=20 " * 6 + "x" * 200
    sheet, higher = (draw_sheet("title " * 100, ["image", text], [[picture(height, width)] * 2] * 2, SIDE) for text in ("grid", long))
    for one in (sheet, higher):
        edges = np.concatenate([one[:4].ravel(), one[-4:].ravel(), one[:, :4].ravel(), one[:, -4:].ravel()])
        assert one.dtype == np.uint8 and one.shape[1] == sheet.shape[1] > 2 * SIDE and (edges == 255).all()
    assert higher.shape[0] > sheet.shape[0] + 20


def test_pictures_are_in_the_order_of_the_columns():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    row = [(np.full((SIDE, SIDE, 3), color, np.uint8), "x") for color in colors]
    sheet = draw_sheet("t", ["image", "one", "two"], [row, row], SIDE)
    found = [np.flatnonzero((sheet == color).all(axis=2).sum(axis=0) > SIDE) for color in colors]
    assert [len(columns) for columns in found] == [SIDE] * 3 and found[0][-1] < found[1][0] and found[1][-1] < found[2][0]


def test_sources_are_columns_and_the_typical_person_is_last(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    people = [build_generator("grid", size=size)(np.zeros((8, 8, 3), np.uint8), None) for size in (4, 1, 2)]
    np.savez(tmp_path / "gt" / "1.npz", seg=np.stack(people) + 1)
    sources = {"g": build_generator("grid", size=3)}
    headings, (row,) = draw_rows(sources, list_bsds(str(tmp_path / "images"), str(tmp_path / "gt")))
    assert headings == ["image", "g", "ground truth"] and [text for _, text in row] == ["1.png, 8 x 8", "9 regions", "4 regions"]
    np.testing.assert_array_equal(row[2][0], overlay_regions(row[0][0], fit(people[2] + 1, SIDE)))
    assert draw_rows(sources, list_images(f"folder:{tmp_path}/images"))[0] == ["image", "g"]


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path, photos, caplog):
    records, sources = list_images(f"folder:{photos}")[:3], {"grid": build_generator("grid", size=2)}
    bad = records[1] | {"file_name": str(tmp_path / "bad.png"), "key": "bad.png"}
    (tmp_path / "bad.png").write_bytes(b"no image")
    line = write_contact_sheet(sources, [records[0], bad, records[2]], tmp_path / "sheet.png", "")
    assert line.startswith(f"{tmp_path / 'sheet.png'}: 2 images") and "bad.png: damaged" in caplog.text
    with pytest.raises(ValueError, match=r"bad\.png: damaged"):
        write_contact_sheet(sources, [bad, bad], tmp_path / "none.png", "")


def test_the_file_is_written_whole_or_not_at_all(tmp_path, photos):
    records, sources = list_images(f"folder:{photos}")[:2], {"grid": build_generator("grid")}
    line = write_contact_sheet(sources, records, tmp_path / "new" / "s.png", "t")
    with Image.open(tmp_path / "new" / "s.png") as sheet:
        assert f"2 images, {sheet.width} x {sheet.height} pixels" in line
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.png"]
    with pytest.raises(ValueError, match=r"the name of a \.png or \.jpg"):
        write_contact_sheet(sources, records, tmp_path / "s.pdf", "t")
    with pytest.raises(ValueError, match="at least one"):
        write_contact_sheet(sources, [], tmp_path / "s.png", "t")
