"""Labelled images: every kind of spec, CIFAR-10's binary files, and classes that are matched by name."""

import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from detcon_d2.evaluation.labelled import list_labelled, read_pixels
from tests.conftest import write_photos


def test_cifar_10_is_read_as_its_page_describes(cifar):
    train, test = list_labelled(f"cifar10:{cifar}", "train"), list_labelled(f"cifar10:{cifar}", "test")
    assert (len(train), len(test)) == (40, 8)
    content = (cifar / "data_batch_2.bin").read_bytes()[3 * 3073 : 4 * 3073]
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert train.names[11] == names[content[0]] and train.classes == names
    image = read_pixels(train.files[11])
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    for channel, y, x in [(0, 0, 1), (1, 5, 7), (2, 31, 31)]:
        assert image[y, x, channel] == content[1 + channel * 1024 + y * 32 + x]


def shorten(path):
    os.truncate(path, 3073 * 8 - 1)


def relabel(path):
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shorten, r"data_batch_3\.bin has 24583 bytes; expected records of 3073 bytes"),
        (lambda path: os.truncate(path, 0), r"data_batch_3\.bin has 0 bytes; expected records of 3073 bytes"),
        (relabel, r"data_batch_3\.bin has the label 10; expected 0\.\.9"),
        (os.remove, r"has no data_batch_3\.bin; expected the folder cifar-10-batches-bin"),
    ],
)
def test_a_damaged_or_incomplete_cifar_10_is_refused(cifar, damage, message):
    damage(cifar / "data_batch_3.bin")
    with pytest.raises(ValueError, match=message):
        list_labelled(f"cifar10:{cifar}", "train")


def write_list(folder, labels):
    write_photos(folder / "images", count=len(labels))
    paths = sorted((folder / "images").rglob("*.png"))
    (folder / "list.txt").write_text("".join(f"{path}\t{label}\n" for path, label in zip(paths, labels)))
    return f"list:{folder / 'list.txt'}"


def write_tar(folder, labels):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for index, label in enumerate(labels):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
            (folder / f"{index}.cls").write_text(str(label))
            for ending in ("png", "cls"):
                tar.add(folder / f"{index}.{ending}", f"{index}.{ending}")
    return f"tar:{folder / 'a.tar'}"


@pytest.mark.parametrize("write", [write_list, write_tar])
def test_numbers_are_classes_in_the_order_of_their_values(tmp_path, write):
    images = list_labelled(write(tmp_path, [10, 9, 10, 2]), "train")
    assert images.classes == ["2", "9", "10"] and images.labels(images.classes).tolist() == [2, 1, 2, 0]
    assert all(read_pixels(file).shape[2] == 3 for file in images.files)


def test_class_folders_are_matched_by_name_even_if_a_class_is_absent(tmp_path):
    write_photos(tmp_path / "train", count=4)
    (tmp_path / "test").mkdir()
    os.rename(write_photos(tmp_path / "other", count=4) / "b", tmp_path / "test/b")
    classes = list_labelled(f"folder:{tmp_path / 'train'}", "train").classes
    assert classes == ["a", "b"] and list_labelled(f"folder:{tmp_path / 'test'}", "test").labels(classes).tolist() == [1, 1]


def test_a_class_without_training_images_is_refused_with_both_lists(photos):
    with pytest.raises(ValueError, match=r"the training images lack: b\. Found a, b; expected some of a, c\."):
        list_labelled(f"folder:{photos}", "test").labels(["a", "c"])


def test_images_without_classes_are_refused(photos):
    with pytest.raises(ValueError, match=r"has images without classes, such as .*000\.png; expected folder:/path of class folders"):
        list_labelled(f"folder:{photos / 'a'}", "train")


def test_the_digest_changes_with_the_images(tmp_path):
    spec = f"folder:{write_photos(tmp_path / 'photos', count=4)}"
    before = list_labelled(spec, "train").digest()
    assert before == list_labelled(spec, "train").digest()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a/000.png")
    assert before != list_labelled(spec, "train").digest()
