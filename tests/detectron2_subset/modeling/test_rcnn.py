"""Mask R-CNN as a whole on every backend present, and the same numbers on both."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.detectron2_subset.modeling.tiny_detector import SIZES, batch, build_tiny, detect, enliven, tiny_config, train_step

LOSSES = ["loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]


def test_training_gives_five_losses_that_reach_every_parameter(backend):
    model = build_tiny(backend)
    losses, scalars = train_step(backend, model, batch(backend))
    assert list(losses) == LOSSES
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert {name.split("/")[0] for name in scalars} == {"rpn", "roi_head", "fast_rcnn", "mask_rcnn"}


def test_a_few_steps_on_two_images_lower_the_loss(backend):
    torch.manual_seed(0)
    model = backend.get("modeling").build_model(tiny_config(backend, PIXEL_STD=[60.0, 60.0, 60.0]))
    optimizer, inputs, totals = torch.optim.Adam(model.parameters(), lr=0.003), batch(backend), []
    for _ in range(12):
        losses, _ = train_step(backend, model, inputs)
        optimizer.zero_grad()
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_detections_come_at_the_size_asked_for(backend):
    inputs = batch(backend)
    for one, given in zip(detect(build_tiny(backend), inputs), inputs):
        found, size = one["instances"], (given["height"], given["width"])
        assert list(one) == ["instances"] and found.image_size == size and len(found)
        assert found.pred_masks.shape == (len(found), *size) and found.pred_masks.dtype == torch.bool
        assert found.pred_boxes.tensor[:, 2].max() <= size[1] and found.pred_boxes.tensor[:, 3].max() <= size[0]
        assert list(found.get_fields()) == ["pred_boxes", "scores", "pred_classes", "pred_masks"]


def test_detections_come_at_the_size_of_the_image_by_default(backend):
    inputs = [{"image": one["image"]} for one in batch(backend)]
    assert [one["instances"].image_size for one in detect(build_tiny(backend), inputs)] == [SIZES[0], SIZES[1]]


def test_raw_detections_keep_mask_probabilities(backend):
    for one, image in zip(detect(build_tiny(backend), batch(backend), do_postprocess=False), (0, 1)):
        assert one.image_size == SIZES[image] and one.pred_masks.shape == (len(one), 1, 16, 16)
        assert one.pred_masks.dtype == torch.float32


def test_calling_a_model_in_eval_mode_is_inference(backend):
    model, inputs = build_tiny(backend), batch(backend)
    with torch.no_grad():
        called = model.eval()(inputs)
    for one, other in zip(called, detect(model, inputs)):
        assert_close(one["instances"].scores, other["instances"].scores)
    with pytest.raises(AssertionError):
        model.train().inference(inputs)


def test_given_boxes_get_the_masks_that_detection_gives_them(backend):
    model, inputs = build_tiny(backend), batch(backend)
    raw = detect(model, inputs, do_postprocess=False)
    given = [type(one)(one.image_size, pred_boxes=one.pred_boxes[::2], pred_classes=one.pred_classes[::2]) for one in raw]
    for one, other in zip(detect(model, inputs, detected_instances=given, do_postprocess=False), raw):
        assert len(one) == len(other[::2]) and not one.has("scores")
        assert_close(one.pred_masks, other.pred_masks[::2])


def test_images_are_normalised_and_padded_with_zeros(backend):
    model = backend.get("modeling").build_model(tiny_config(backend, PIXEL_MEAN=[1.0, 2.0, 3.0], PIXEL_STD=[2.0, 4.0, 8.0]))
    inputs = batch(backend)
    images = model.preprocess_image(inputs)
    assert images.tensor.shape == (2, 3, 96, 96) and images.image_sizes == [SIZES[0], SIZES[1]]
    mean, std = (torch.tensor(values)[:, None, None] for values in ([1.0, 2.0, 3.0], [2.0, 4.0, 8.0]))
    for index, one in enumerate(inputs):
        assert_close(images[index], (one["image"] - mean) / std)
    assert not images.tensor[0, :, 64:].any() and not images.tensor[1, :, :, 60:].any()


def test_pixel_statistics_are_on_the_device_but_in_no_checkpoint(backend):
    model = build_tiny(backend, PIXEL_STD=[50.0, 60.0, 70.0])
    assert not any("pixel" in key for key in model.state_dict())
    assert model.pixel_std.flatten().tolist() == [50.0, 60.0, 70.0] and model.device == torch.device("cpu")
    assert model.to("meta").device.type == "meta"


def test_statistics_of_different_lengths_are_refused(backend):
    with pytest.raises(AssertionError):
        backend.get("modeling").build_model(tiny_config(backend, PIXEL_STD=[1.0]))


def test_neither_polygons_nor_bitmaps_nor_empty_images_stop_training(backend):
    for images, masks in (((0, 2), "polygon"), ((0, 1), "bitmask"), ((2, 2), "polygon")):
        losses, _ = train_step(backend, build_tiny(backend), batch(backend, images, masks))
        assert list(losses) == LOSSES and all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()


def test_without_masks_it_is_faster_rcnn(backend):
    model = build_tiny(backend, MASK_ON=False)
    losses, _ = train_step(backend, model, batch(backend))
    assert "loss_mask" not in losses and not detect(model, batch(backend))[0]["instances"].has("pred_masks")


def test_pictures_while_training_are_named_as_missing(subset):
    cfg = tiny_config(subset)
    cfg.VIS_PERIOD = 10
    with pytest.raises(NotImplementedError, match=r"VIS_PERIOD.*install detectron2"):
        subset.get("modeling").build_model(cfg)


def test_bfloat16_autocast_trains(backend):
    model = build_tiny(backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = train_step(backend, model, batch(backend))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


VARIANTS = {
    "standard": {},
    "resnet18": {"RESNETS__DEPTH": 18, "RESNETS__RES2_OUT_CHANNELS": 64, "RESNETS__STEM_OUT_CHANNELS": 64},
    "frozen": {"RESNETS__NORM": "FrozenBN", "BACKBONE__FREEZE_AT": 2},
    "4conv1fc": {
        "RESNETS__NORM": "naiveSyncBN",
        "FPN__NORM": "naiveSyncBN",
        "ROI_BOX_HEAD__NUM_CONV": 4,
        "ROI_BOX_HEAD__NUM_FC": 1,
        "ROI_BOX_HEAD__NORM": "naiveSyncBN_N",
        "ROI_MASK_HEAD__NORM": "naiveSyncBN_N",
    },
    "group_norm": {"FPN__NORM": "GN", "ROI_MASK_HEAD__NORM": "GN"},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True, "FPN__FUSE_TYPE": "avg"},
    "rgb_statistics": {
        "PIXEL_MEAN": [123.675, 116.28, 103.53],
        "PIXEL_STD": [58.395, 57.12, 57.375],
        "ROI_HEADS__SCORE_THRESH_TEST": 0.0,
    },
}


def assert_same_detections(ours: list, theirs: list) -> None:
    """Classes and masks equal (but for pixels at the threshold), boxes and scores to 1e-4."""
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
    histories, initial = [], build_tiny(real).state_dict()
    initial = {key: value.clone() for key, value in initial.items()}
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
    """Mask R-CNN R50-FPN 1x of the Detectron2 checkout; skips where only the package is installed."""
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
        models.append(enliven(backend.get("modeling").build_model(cfg)))
    # Constants for statistics as trained networks have them: as they are, activations of 50 random layers grow to millions.
    for name, value in models[1].named_buffers():
        if name.endswith("norm.weight"):
            value.fill_(0.1 if "stem" in name else 0.3)
    assert_same_model(subset, real, *models)
