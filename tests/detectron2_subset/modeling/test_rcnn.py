"""Mask R-CNN as a whole, on both backends, with the same numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.detectron2_subset.modeling.tiny_detector import SIZES, batch, build_tiny, detect, spread_weights, tiny_config, train_step

LOSSES = ["loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_gives_five_losses_that_reach_every_parameter(backend, dtype):
    model = build_tiny(backend)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        losses, scalars = train_step(backend, model, batch(backend))
    assert list(losses) == LOSSES and {name.split("/")[0] for name in scalars} == {"rpn", "roi_head", "fast_rcnn", "mask_rcnn"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_few_steps_on_two_images_lower_the_loss(backend):
    torch.manual_seed(0)
    model = backend.get("modeling").build_model(tiny_config(backend, PIXEL_STD=[60.0, 60.0, 60.0]))
    optimizer, inputs, totals = torch.optim.Adam(model.parameters(), lr=0.003), batch(backend), []
    for _ in range(12):
        total = sum(train_step(backend, model, inputs)[0].values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_detections_come_at_the_size_of_the_input_or_of_the_image(backend):
    model, inputs = build_tiny(backend), batch(backend)
    for one, given in zip(detect(model, inputs), inputs, strict=True):
        found, size = one["instances"], (given["height"], given["width"])
        assert list(one) == ["instances"] and found.image_size == size and len(found)
        assert found.pred_masks.shape == (len(found), *size) and found.pred_masks.dtype == torch.bool
        assert found.pred_boxes.tensor[:, 2].max() <= size[1] and found.pred_boxes.tensor[:, 3].max() <= size[0]
        assert list(found.get_fields()) == ["pred_boxes", "scores", "pred_classes", "pred_masks"]
    found = detect(model, [{"image": one["image"]} for one in inputs])
    assert [one["instances"].image_size for one in found] == [SIZES[0], SIZES[1]]


def test_images_are_normalised_and_padded_with_zeros(backend):
    statistics = {"PIXEL_MEAN": [1.0, 2.0, 3.0], "PIXEL_STD": [2.0, 4.0, 8.0]}
    model, inputs = backend.get("modeling").build_model(tiny_config(backend, **statistics)), batch(backend)
    images = model.preprocess_image(inputs)
    assert images.tensor.shape == (2, 3, 96, 96) and images.image_sizes == [SIZES[0], SIZES[1]]
    expected = torch.zeros(2, 3, 96, 96)
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics.values())
    for index, (height, width) in ((0, SIZES[0]), (1, SIZES[1])):
        expected[index, :, :height, :width] = (inputs[index]["image"] - mean) / std
    assert_close(images.tensor, expected)
    assert not any("pixel" in key for key in model.state_dict()) and model.to("meta").device.type == "meta"
    with pytest.raises(AssertionError):
        backend.get("modeling").build_model(tiny_config(backend, PIXEL_STD=[1.0]))


@pytest.mark.parametrize(("images", "masks"), [((0, 2), "polygon"), ((0, 1), "bitmask"), ((2, 2), "polygon")])
def test_neither_bitmaps_nor_images_without_objects_stop_training(backend, images, masks):
    losses, _ = train_step(backend, build_tiny(backend), batch(backend, images, masks))
    assert list(losses) == LOSSES and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()


def test_without_masks_it_is_faster_rcnn(backend):
    model = build_tiny(backend, MASK_ON=False)
    losses, _ = train_step(backend, model, batch(backend))
    assert "loss_mask" not in losses and not detect(model, batch(backend))[0]["instances"].has("pred_masks")


def test_the_subset_has_no_pictures_while_training(subset):
    cfg = tiny_config(subset)
    cfg.VIS_PERIOD = 10
    with pytest.raises(NotImplementedError, match=r"VIS_PERIOD.*install detectron2"):
        subset.get("modeling").build_model(cfg)


HEAD_NORMS = {"ROI_BOX_HEAD__NORM": "naiveSyncBN_N", "ROI_MASK_HEAD__NORM": "naiveSyncBN_N"}
STATISTICS = {"PIXEL_MEAN": [123.675, 116.28, 103.53], "PIXEL_STD": [58.395, 57.12, 57.375]}
VARIANTS = {
    "standard": {},
    "resnet18": {"RESNETS__DEPTH": 18, "RESNETS__RES2_OUT_CHANNELS": 64, "RESNETS__STEM_OUT_CHANNELS": 64},
    "frozen": {"RESNETS__NORM": "FrozenBN", "BACKBONE__FREEZE_AT": 2},
    "4conv1fc": {"FPN__NORM": "naiveSyncBN", "ROI_BOX_HEAD__NUM_CONV": 4, "ROI_BOX_HEAD__NUM_FC": 1, **HEAD_NORMS},
    "group_norm": {"FPN__NORM": "GN", "ROI_MASK_HEAD__NORM": "GN"},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True, "FPN__FUSE_TYPE": "avg"},
    "rgb_statistics": {"ROI_HEADS__SCORE_THRESH_TEST": 0.0, **STATISTICS},
}


def assert_same_detections(ours: list, theirs: list) -> None:
    """Classes and masks equal (except pixels at the threshold), boxes and scores to 1e-4."""
    for one, other in zip(ours, theirs, strict=True):
        one, other = one["instances"], other["instances"]
        assert one.image_size == other.image_size and len(one) and one.pred_classes.tolist() == other.pred_classes.tolist()
        assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-4, rtol=1e-5)
        assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
        assert (one.pred_masks != other.pred_masks).float().mean() <= 1e-4


def assert_same_model(subset, real, ours: nn.Module, theirs: nn.Module) -> None:
    """The same keys and shapes and, with the same weights, losses (one seed), scalars, gradients and detections."""
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    assert_same_detections(detect(ours, batch(subset)), detect(theirs, batch(real)))
    (our_losses, our_scalars), (their_losses, their_scalars) = (train_step(b, m, batch(b)) for b, m in ((subset, ours), (real, theirs)))
    assert list(our_losses) == list(their_losses)
    assert_close(our_losses, their_losses, atol=1e-5, rtol=1e-4)
    assert our_scalars == pytest.approx(their_scalars, abs=1e-5)
    for losses in (our_losses, their_losses):
        sum(losses.values()).backward()
    for (name, our), (_, their) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert our.requires_grad == their.requires_grad and (our.grad is None) == (their.grad is None), name
        if their.grad is not None:
            assert (our.grad - their.grad).abs().max() <= 1e-4 * max(their.grad.abs().max().item(), 1.0), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_are_the_same_model(subset, real, variant):
    assert_same_model(subset, real, build_tiny(subset, **VARIANTS[variant]), build_tiny(real, **VARIANTS[variant]))


@pytest.mark.parametrize("masks", ["polygon", "bitmask"])
def test_both_backends_train_alike_for_three_steps(subset, real, masks):
    initial = {key: value.clone() for key, value in build_tiny(real).state_dict().items()}
    histories = []
    for backend in (subset, real):
        model = build_tiny(backend)
        model.load_state_dict(initial)
        optimizer, totals = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9), []
        for step, images in enumerate(((0, 1), (1, 2), (2, 0))):
            losses, _ = train_step(backend, model, batch(backend, images, masks), seed=step)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            totals.append(torch.stack(list(losses.values())).detach())
        histories.append(torch.stack(totals))
    assert_close(histories[0], histories[1], atol=1e-4, rtol=1e-4)


@pytest.fixture
def official_config(real) -> Path:
    """Mask R-CNN R50-FPN 1x of the Detectron2 checkout; it skips if only the package is installed."""
    path = Path(real.get().__file__).parents[1] / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    if not path.is_file():
        pytest.skip("needs a Detectron2 checkout with its configs/ (the installed package has none)")
    return path


def test_the_official_mask_rcnn_is_the_same_model_on_both_backends(subset, real, official_config):
    models = []
    for backend in (subset, real):
        cfg = backend.get("config").get_cfg()
        cfg.merge_from_file(str(official_config))
        cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = "cpu", 0.0
        models.append(spread_weights(backend.get("modeling").build_model(cfg)))
    # Constants like those of trained networks: with random ones, the activations of 50 layers grow to millions.
    for name, value in models[1].named_buffers():
        if name.endswith("norm.weight"):
            value.fill_(0.1 if "stem" in name else 0.3)
    assert_same_model(subset, real, *models)
