"""Label images of classes: which images a spec has, and which files are refused."""

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.annotated.semantic import VOC_CLASSES, read_label_image, read_semantic


def write(path, labels: np.ndarray, mode: str = "L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if mode == "P":
        # 255 has the colour of VOC's void.
        image.putpalette([*(value for index in range(255) for value in (255 - index, 7, index)), 224, 224, 192])
    image.save(path)
    return path


@pytest.fixture
def voc(tmp_path):
    """Three images in the list "train_aug"; "b" has labels in both folders; "val" names an image that has none."""
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("b\na\nc\n")
    (lists / "val.txt").write_text("a\nd\n")
    for name, folders in {
        "a": ["SegmentationClass"],
        "b": ["SegmentationClass", "SegmentationClassAug"],
        "c": ["SegmentationClassAug"],
    }.items():
        write(tmp_path / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        for folder in folders:
            write(tmp_path / folder / f"{name}.png", np.zeros((4, 6), np.uint8))
    return tmp_path


def test_a_list_of_voc_has_its_images_with_vocs_own_labels_first(voc):
    records, classes = read_semantic(f"voc:{voc},train_aug")
    assert [one["image_id"] for one in records] == ["a", "b", "c"]
    labels = [one["sem_seg_file_name"].removeprefix(f"{voc}/") for one in records]
    assert labels == ["SegmentationClass/a.png", "SegmentationClass/b.png", "SegmentationClassAug/c.png"]
    assert classes == VOC_CLASSES and len(classes) == 21 and (classes[1], classes[15], classes[20]) == ("aeroplane", "person", "tvmonitor")


def test_two_folders_have_the_images_with_labels(voc):
    records, classes = read_semantic(f"masks:{voc / 'JPEGImages'},{voc / 'SegmentationClassAug'}")
    assert [one["image_id"] for one in records] == ["b.jpg", "c.jpg"] and classes == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("voc:{root}", r"found no list in the spec; expected one of those in .*\(train_aug, val\)"),
        ("voc:{root},test", r"found no list .*test\.txt; expected one of"),
        ("voc:{root},val", r"lists 2 images, 1 of them without .* \(.*d.*\); expected both"),
        ("voc:{root}/none,val", "there is no folder"),
        ("masks:{root}/JPEGImages,{root}/ImageSets", "found no PNG"),
        ("coco:{root},{root}", "has no label images of classes; expected voc:"),
    ],
)
def test_what_cannot_be_read_is_named(voc, spec, message):
    with pytest.raises(ValueError, match=message):
        read_semantic(spec.format(root=voc))


@pytest.mark.parametrize("mode", ["L", "P"])
def test_the_numbers_of_a_grey_or_palette_file_are_its_classes(tmp_path, mode):
    labels = np.array([[0, 1, 20], [255, 15, 2]], np.uint8)
    assert np.array_equal(read_label_image(write(tmp_path / "a.png", labels, mode), 21, 255, (2, 3)), labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[0, 33]], np.uint8), "has the number 33; expected 0 to 20, or 255 for no class"),
        (np.array([[0, 300]], np.uint16), "has the number 300"),
        (np.zeros((2, 1), np.uint8), "has 1 x 2 pixels; expected 2 x 1, as its image"),
        (np.zeros((1, 2, 3), np.uint8), "has colours; expected one number for each pixel"),
        (None, "cannot be read"),
    ],
)
def test_other_label_images_are_refused(tmp_path, labels, message):
    path = tmp_path / "a.png"
    if labels is None:
        path.write_bytes(b"no image")
    else:
        write(path, labels)
    with pytest.raises(ValueError, match=message):
        read_label_image(path, 21, 255, (1, 2))
