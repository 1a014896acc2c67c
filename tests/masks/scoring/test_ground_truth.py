"""Human segmentations of BSDS500 and COCO instances as ground truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from detcon_d2.masks.scoring.ground_truth import instance_truth, list_bsds, list_coco, read_ground_truth, read_segmentations

HALVES = np.repeat([[1, 1, 2, 2]], 3, axis=0).astype(np.uint16)
ONE = np.ones((3, 4), np.uint16)


def write_mat(path: Path, segmentations: list[np.ndarray]) -> Path:
    """As BSDS500's groundTruth: a row of cells, each a struct with Segmentation and Boundaries."""
    people = np.empty((1, len(segmentations)), object)
    for index, segments in enumerate(segmentations):
        people[0, index] = {"Segmentation": segments, "Boundaries": np.zeros(segments.shape, np.uint8)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"groundTruth": people})
    return path


def write_image(path: Path, height: int = 3, width: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


@pytest.mark.parametrize("people", [[HALVES], [HALVES, ONE], [HALVES, ONE, HALVES]])
def test_mat_and_npz_give_every_person(tmp_path, people):
    mat = write_mat(tmp_path / "1.mat", people)
    np.savez(tmp_path / "1.npz", seg=np.stack(people).astype(np.uint8))
    for path in (mat, tmp_path / "1.npz"):
        found = read_segmentations(path)
        assert len(found) == len(people)
        for one, expected in zip(found, people):
            np.testing.assert_array_equal(one, expected)


def test_images_are_paired_with_segmentations_below_the_same_folders(tmp_path):
    for name in ("val/1", "val/2", "test/3"):
        write_image(tmp_path / "images" / f"{name}.png")
    write_mat(tmp_path / "gt" / "val" / "1.mat", [HALVES])
    write_mat(tmp_path / "gt" / "test" / "3.mat", [ONE])
    records = list_bsds(str(tmp_path / "images"), str(tmp_path / "gt"))
    assert [record["key"] for record in records] == ["test/3.png", "val/1.png"]
    (truth,) = read_ground_truth(records[1], 3, 4)
    assert truth.background is None
    np.testing.assert_array_equal(truth.segments, HALVES)


def test_no_pair_at_all_and_another_size_are_errors_that_name_both_files(tmp_path):
    write_image(tmp_path / "images" / "val" / "1.png", 4, 3)
    write_mat(tmp_path / "gt" / "1.mat", [HALVES])
    with pytest.raises(ValueError, match=r"no segmentation for any of the 1 images .* expected .*val/1\.mat"):
        list_bsds(str(tmp_path / "images"), str(tmp_path / "gt"))
    (record,) = list_bsds(str(tmp_path / "images" / "val"), str(tmp_path / "gt"))
    with pytest.raises(ValueError, match=r"gt/1\.mat is 4 x 3 \(width x height\), but .*val/1\.png is 3 x 4"):
        read_ground_truth(record, 4, 3)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "1.mat").write_bytes(b"nothing")
    scipy.io.savemat(tmp_path / "2.mat", {"other": 3})
    np.savez(tmp_path / "3.npz", other=HALVES)
    np.savez(tmp_path / "4.npz", seg=HALVES.astype(float)[None])
    np.savez(tmp_path / "5.npz", seg=np.zeros((0, 3, 4), int))
    messages = {"1.mat": "cannot read", "2.mat": "groundTruth", "3.npz": "seg", "4.npz": "float64", "5.npz": "at least one"}
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}|{message}.*{name}"):
            read_segmentations(tmp_path / name)


def test_instances_are_objects_the_rest_background_and_crowds_void():
    annotations = [{"segmentation": box(0, 0, 6, 4)}, {"segmentation": box(6, 0, 8, 4), "iscrowd": 1}, {"segmentation": box(1, 1, 3, 3)}]
    truth = instance_truth(annotations, 6, 9)
    expected = np.zeros((6, 9), int)
    expected[:4, :6], expected[:4, 6:8], expected[1:3, 1:3] = 1, 65535, 3
    assert truth.background == 0
    np.testing.assert_array_equal(truth.segments, expected)


def test_coco_of_another_size_than_the_image_is_refused(tmp_path):
    image = write_image(tmp_path / "a.png", 6, 9)
    content = {"images": [{"id": 1, "file_name": image.name, "height": 9, "width": 6}], "annotations": []}
    (tmp_path / "i.json").write_text(json.dumps(content))
    (record,) = list_coco(str(tmp_path / "i.json"), str(tmp_path))
    with pytest.raises(ValueError, match=r"the COCO json is 6 x 9 .* but .*a\.png is 9 x 6"):
        read_ground_truth(record, 6, 9)
