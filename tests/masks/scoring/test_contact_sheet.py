"""Contact sheets: what is drawn where, and that nothing is cut."""

import numpy as np
import pytest
from PIL import Image

from detcon_d2.masks import build_generator, list_images
from detcon_d2.masks.scoring.contact_sheet import PANEL, ContactRow, collect_contact_rows, render_contact_sheet, write_contact_sheet
from detcon_d2.masks.scoring.ground_truth import list_bsds


def row(height: int = 30, width: int = 40, maps: int = 1) -> ContactRow:
    image = np.full((height, width, 3), 120, np.uint8)
    return ContactRow("a/b.png", image, [build_generator("grid", size=2 + index)(image, None) for index in range(maps)])


def margins(sheet: np.ndarray) -> np.ndarray:
    return np.concatenate([sheet[:4].ravel(), sheet[-4:].ravel(), sheet[:, :4].ravel(), sheet[:, -4:].ravel()])


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (1, 1), (2, 900), (900, 2), (700, 500)])
def test_images_of_any_shape_fit(height, width):
    sheet = render_contact_sheet(["grid", "finer"], [row(height, width, maps=2)] * 2, "title " * 100)
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 3 * PANEL and (margins(sheet) == 255).all()


def test_columns_stand_in_order_and_below_each_other():
    image = np.zeros((30, 30, 3), np.uint8)
    maps = [np.zeros((30, 30), np.uint16), np.full((30, 30), 65535, np.uint16)]
    sheet = render_contact_sheet(["one", "none"], [ContactRow("x", image, maps), ContactRow("y", image, maps)], "t")
    found = [np.flatnonzero((sheet == color).all(axis=2).sum(axis=0) > PANEL) for color in colors_of(sheet, image, maps)]
    assert [len(columns) for columns in found] == [PANEL] * 3 and found[0][-1] < found[1][0] and found[1][-1] < found[2][0]


def colors_of(sheet: np.ndarray, image: np.ndarray, maps: list[np.ndarray]) -> list[np.ndarray]:
    from detcon_d2.masks.overlay import overlay_regions

    return [image[0, 0], *(overlay_regions(image, label_map)[0, 0] for label_map in maps)]


def test_long_headings_wrap_and_very_long_words_are_cut():
    short = render_contact_sheet(["grid"], [row()], "t")
    long = render_contact_sheet(["hierarchy " + "number_of_regions=20 " * 4 + "x" * 200], [row()], "t")
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 20 and (margins(long) == 255).all()


def test_sources_are_columns_and_the_typical_person_is_last(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "gt").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "1.png")
    people = [build_generator("grid", size=size)(np.zeros((8, 8, 3), np.uint8), None) for size in (4, 1, 2)]
    np.savez(tmp_path / "gt" / "1.npz", seg=np.stack(people) + 1)
    sources = {"g": build_generator("grid", size=3)}
    headings, (only,) = collect_contact_rows(sources, list_bsds(str(tmp_path / "images"), str(tmp_path / "gt")))
    assert headings == ["g", "ground truth"] and [len(np.unique(label_map)) for label_map in only.label_maps] == [9, 4]
    headings, _ = collect_contact_rows(sources, list_images(f"folder:{tmp_path}/images"))
    assert headings == ["g"]


def test_the_file_is_written_whole_or_not_at_all(tmp_path, photos):
    records, sources = list_images(f"folder:{photos}")[:2], {"grid": build_generator("grid")}
    line = write_contact_sheet(sources, records, tmp_path / "new" / "s.png", "t")
    with Image.open(tmp_path / "new" / "s.png") as sheet:
        assert f"2 images, {sheet.width} x {sheet.height} pixels" in line
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.png"]
    for output, images in ((tmp_path / "s.pdf", records), (tmp_path / "s.png", [])):
        with pytest.raises(ValueError, match=r"expected at least one, and the name of a \.png or \.jpg"):
            write_contact_sheet(sources, images, output, "t")
