"""Semantic segmentation sees the labels of its files, in crops of one size, and its mIoU is the one that is computed by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.data.reading import RefusedImageError
from detcon_d2.engine import load_config
from detcon_d2.engine.finetune.data import catalog_categories
from detcon_d2.engine.finetune.evaluate import evaluate
from detcon_d2.engine.finetune.semantic import PhotometricDistortion, SemanticMapper, build_augmentations, look_at_labels
from detcon_d2.engine.finetune.setup import check_finetuning_config
from detcon_d2.model_zoo import get_config_file
from tests.transfer import needs

CONFIG = "PascalVOC-SemanticSegmentation/fcn_R_50_moco_30k.yaml"


def load(**overrides: object) -> "d2.CfgNode":
    opts = {"MODEL__DEVICE": "cpu", "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 3, "DATALOADER__NUM_WORKERS": 0} | overrides
    return load_config(get_config_file(CONFIG), [str(item) for key, value in opts.items() for item in (key.replace("__", "."), value)])


# Rows of the images: classes 0 to 2 in the labels, and the class that the model below gives.
LABELS = [[0, 0, 1, 255], [2, 2, 2, 2]]
PREDICTED = [[0, 1, 1, 2], [2, 2, 2, 0]]


@pytest.fixture
def spec(tmp_path) -> str:
    """Two images of 4 x 6 pixels, whose channel that is bright has the number of the predicted class."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number, (labels, predicted) in enumerate(zip(LABELS, PREDICTED)):
        pixels = np.eye(3, dtype=np.uint8)[predicted][:, None].repeat(6, axis=1) * 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.array(labels, np.uint8)[:, None].repeat(6, axis=1)).save(tmp_path / "labels" / f"{number}.png")
    return f"masks:{tmp_path / 'images'},{tmp_path / 'labels'}"


class Channels(nn.Module):
    """A segmentor whose logits are the channels of the image."""

    class Head(nn.Module):
        def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, dict]:
            return features, {}

        def enlarge(self, logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
            return F.interpolate(logits, size)

    def __init__(self) -> None:
        super().__init__()
        self.pixel_mean, self.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        self.backbone, self.sem_seg_head = nn.Identity(), self.Head()


@pytest.mark.parametrize("window", [(0, 0), (3, 2)])
def test_the_miou_is_the_one_computed_by_hand(spec, tmp_path, window):
    needs("SemSegEvaluator")
    size = {"INPUT__MIN_SIZE_TEST": 4, "DATASETS__TEST": f"('{spec}',)", "OUTPUT_DIR": tmp_path}
    cfg = load(DETCON__SEM_SEG__WINDOW=window[0], DETCON__SEM_SEG__WINDOW_STRIDE=window[1], **size)
    look_at_labels(cfg, [], [spec])
    found = evaluate(cfg, Channels())[spec]["sem_seg"]
    # Rows of 6 pixels. Class 0: one row right, two labelled, two given (a third was given where nothing is labelled: not counted).
    expected = {"IoU-class 0": 100 / 3, "IoU-class 1": 100 / 2, "IoU-class 2": 100 * 3 / 4}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["mIoU"] == pytest.approx(sum(expected.values()) / 3) and found["pACC"] == pytest.approx(100 * 5 / 7)


def test_training_images_are_cropped_or_padded_to_one_size(spec):
    needs("SemSegEvaluator")
    sizes = {"INPUT__MIN_SIZE_TRAIN": "(4, 4)", "INPUT__RANDOM_FLIP": "none", "INPUT__CROP__SIZE": "(5, 3)"}
    cfg = load(**sizes, DETCON__SEM_SEG__CATEGORY_MAX_AREA=0.75, DETCON__SEM_SEG__PHOTOMETRIC=False)
    look_at_labels(cfg, [spec], [])
    records = d2.DatasetCatalog.get(spec)
    found = SemanticMapper(cfg, True)(records[0])
    assert found["image"].dtype == torch.uint8 and found["image"].shape == (3, 5, 3) and found["sem_seg"].dtype == torch.int64
    assert found["sem_seg"].tolist() == [[value] * 3 for value in [*LABELS[0], 255]]
    assert found["image"][:, 4].T.tolist() == [[124, 116, 104]] * 3  # the pixel mean
    assert found["image"][:, :4].argmax(dim=0).tolist() == [[value] * 3 for value in PREDICTED[0]]
    assert (found["height"], found["width"], found["file_name"]) == (4, 6, records[0]["file_name"])
    crop = build_augmentations(cfg, True)[-1]
    assert (crop.single_category_max_area, crop.ignored_category, crop.crop_size) == (0.75, 255, (5, 3))
    cfg.INPUT.FORMAT = "BGR"
    assert SemanticMapper(cfg, True)(records[0])["image"][:, :4].argmax(dim=0)[:, 0].tolist() == [2 - value for value in PREDICTED[0]]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    for is_train in (True, False):
        with pytest.raises(RefusedImageError, match=r"1\.png: the label image .*1\.png has the number 2; expected 0 to 1"):
            SemanticMapper(cfg, is_train)(records[1])


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_colours_change_as_described(order):
    red, step = np.array([[[200, 20, 20]]], np.uint8), 1 if order == "RGB" else -1
    distort = PhotometricDistortion(order).apply

    def changed(*amounts: float) -> list[int]:
        return distort(red[..., ::step], *amounts)[0, 0, ::step].tolist()

    assert changed(0.0, 1.0, 1.0, 0, True) == [200, 20, 20]
    assert changed(32.0, 1.0, 1.0, 0, True) == [232, 52, 52] and changed(-32.0, 1.0, 1.0, 0, False) == [168, 0, 0]
    assert changed(0.0, 1.5, 1.0, 0, False) == changed(0.0, 1.5, 1.0, 0, True) == [255, 30, 30]
    assert changed(0.0, 1.0, 0.5, 0, True) == pytest.approx([200, 110, 110], abs=1)
    assert changed(0.0, 1.0, 1.0, 60, True) == pytest.approx([20, 200, 20], abs=1)


def test_colours_are_random_with_probability_one_half_each():
    needs("SemanticSegmentor")
    image, distortion = np.full((2, 2, 3), 128, np.uint8), PhotometricDistortion("RGB")
    found = [distortion.get_transform(image).apply_image(image)[0, 0, 0] for _ in range(400)]
    # Grey shows brightness and contrast only; 1/4 stays (more after rounding).
    assert 0.2 < np.mean(np.array(found) == 128) < 0.35 and min(found) < 64 and max(found) > 200


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"MODEL__SEM_SEG_HEAD__NUM_CLASSES": 256}, "NUM_CLASSES is 256; expected 1 to 255"),
        ({"INPUT__CROP__TYPE": "relative"}, "CROP.TYPE is 'relative'; expected 'absolute'"),
        ({"DETCON__FINETUNE__AUGMENTATION": "scale_jitter"}, "AUGMENTATION is 'scale_jitter'; expected 'default'"),
        ({"DETCON__SEM_SEG__WINDOW": 5, "DETCON__SEM_SEG__WINDOW_STRIDE": 6}, "WINDOW_STRIDE is 6; expected 1 to 5"),
    ],
)
def test_configs_that_make_no_sense_are_refused(opts, message):
    needs("SemanticSegmentor")
    with pytest.raises(ValueError, match=message):
        check_finetuning_config(load(**opts), world_size=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_set", "'no_such_set' is not a data set; expected voc:"),
        ("objects_only", "The data set objects_only has no sem_seg_file_name"),
        ("coco:a.json,b", "coco:a.json,b has no label images of classes"),
    ],
)
def test_data_sets_without_label_images_are_refused(name, message):
    if "objects_only" not in d2.DatasetCatalog.list():
        d2.DatasetCatalog.register("objects_only", lambda: [{"file_name": "a.png", "annotations": []}])
    with pytest.raises(ValueError, match=message):
        look_at_labels(load(), [name], [])


def test_a_look_names_the_classes_and_refuses_another_number_of_them(spec):
    assert look_at_labels(load(), [spec], [spec]) == [f"{spec}: 2 images with label images, 3 classes (class 0, class 1, class 2)"]
    assert catalog_categories(spec, semantic=True) == (["class 0", "class 1", "class 2"], [0, 1, 2])
    name = "labelled_in_the_catalog"
    if name not in d2.DatasetCatalog.list():
        d2.DatasetCatalog.register(name, lambda: [{"file_name": "/data/a.png", "sem_seg_file_name": "/data/a_labels.png"}])
        d2.MetadataCatalog.get(name).set(stuff_classes=["road", "sky"])
    for _ in range(2):
        with pytest.raises(ValueError, match="NUM_CLASSES is 3, but labelled_in_the_catalog has 2 classes; set it to 2"):
            look_at_labels(load(), [name], [])
    look_at_labels(load(MODEL__SEM_SEG_HEAD__NUM_CLASSES=2), [name], [])
    assert d2.DatasetCatalog.get(name)[0]["image_id"] == "a.png"
