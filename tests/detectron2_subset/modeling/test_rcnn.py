"""Mask R-CNN as a whole, on both backends, with the same numbers."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.detectron2_subset.modeling.tiny_detector import CASES, SIZES, batch, build_tiny, detect, measure, spread, tiny_config, train_step
from tests.detectron2_subset.recorded import numbers_of_detectron2

LOSSES = ["loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_training_gives_five_losses_that_reach_every_parameter(backend, dtype):
    model = build_tiny(backend)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        losses, scalars = train_step(backend, model, batch(backend))
    assert list(losses) == LOSSES and {name.split("/")[0] for name in scalars} == {"rpn", "roi_head", "fast_rcnn", "mask_rcnn"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


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


def test_a_batch_without_objects_trains_classes_and_objectness_only(backend):
    losses, _ = train_step(backend, build_tiny(backend), batch(backend, (2, 2)))
    assert list(losses) == LOSSES and all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_box_reg"] == losses["loss_rpn_loc"] == 0
    sum(losses.values()).backward()


def test_without_masks_it_is_faster_rcnn(backend):
    model = build_tiny(backend, MASK_ON=False)
    losses, _ = train_step(backend, model, batch(backend))
    assert "loss_mask" not in losses and not detect(model, batch(backend))[0]["instances"].has("pred_masks")


REFUSED = [
    (AssertionError, {"FPN__IN_FEATURES": ["res2", "res4"]}),
    (AssertionError, {"FPN__IN_FEATURES": ["res3", "res2"]}),
    (AssertionError, {"FPN__IN_FEATURES": []}),
    (AssertionError, {"FPN__FUSE_TYPE": "max"}),
    (KeyError, {"FPN__IN_FEATURES": ["res9"]}),
    (KeyError, {"FPN__NORM": "NoSuchNorm"}),
    (AssertionError, {"ANCHOR_GENERATOR__SIZES": [[8], [16], [32]]}),
    (AssertionError, {"ANCHOR_GENERATOR__SIZES": [[8], [16, 32], [32], [64], [128]]}),
    (AssertionError, {"ANCHOR_GENERATOR__OFFSET": 1.0}),
    (ValueError, {"RPN__CONV_DIMS": [0, 4]}),
    (AssertionError, {"ROI_MASK_HEAD__NUM_CONV": -1}),
    *((KeyError, {f"{part}__NAME": "NoSuchPart"}) for part in ("ANCHOR_GENERATOR", "PROPOSAL_GENERATOR", "ROI_BOX_HEAD", "ROI_MASK_HEAD")),
    (KeyError, {"RPN__HEAD_NAME": "NoSuchHead"}),
]


@pytest.mark.parametrize(("error", "options"), REFUSED)
def test_impossible_parts_are_refused(backend, error, options):
    with pytest.raises(error):
        backend.get("modeling").build_model(tiny_config(backend, **options))


LACKING = {"RPN__BBOX_REG_LOSS_TYPE": "giou", "ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE": "giou", "KEYPOINT_ON": True}
LACKING |= {f"ROI_BOX_HEAD__{key}": True for key in ("TRAIN_ON_PRED_BOXES", "USE_FED_LOSS", "USE_SIGMOID_CE")}


@pytest.mark.parametrize("key", [*LACKING, "VIS_PERIOD"])
def test_what_the_subset_does_not_have_is_named(subset, key):
    cfg = tiny_config(subset, **({key: LACKING[key]} if key in LACKING else {}))
    cfg.VIS_PERIOD = 10 * (key == "VIS_PERIOD")
    with pytest.raises(NotImplementedError, match=rf"{key.rpartition('__')[-1]}.*install detectron2"):
        subset.get("modeling").build_model(cfg)


def test_anchors_of_several_sizes_and_ratios_are_in_the_order_of_checkpoints(backend):
    arguments = {"sizes": [[8, 16]], "aspect_ratios": [[1, 4]], "strides": [4], "offset": 0.5}
    (anchors,) = backend.get("modeling.anchor_generator").DefaultAnchorGenerator(**arguments)([torch.zeros(1, 1, 1, 2)])
    cell = [[-2, -2, 6, 6], [0, -6, 4, 10], [-6, -6, 10, 10], [-2, -14, 6, 18]]
    assert anchors.tensor.tolist() == cell + [[x1 + 4, y1, x2 + 4, y2] for x1, y1, x2, y2 in cell]


def test_training_stops_without_objects_or_with_predictions_that_are_not_finite(backend):
    model, inputs = build_tiny(backend), batch(backend)
    with pytest.raises((AssertionError, KeyError)):
        train_step(backend, model, [{"image": one["image"]} for one in inputs])
    model.proposal_generator.rpn_head.objectness_logits.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError):
        train_step(backend, model, inputs)


@pytest.mark.parametrize("variant", CASES)
def test_weights_losses_gradients_and_detections_are_those_recorded_of_detectron2(backend, variant):
    found, expected = measure(backend, variant), numbers_of_detectron2("modeling.tiny_detector", variant)
    # Initial weights are random on each backend; only their spread is the same.
    assert_close(found.pop("initial"), expected.pop("initial"), rtol=0.15, atol=0)
    # Single detections and pixels of masks at their thresholds may differ on other processors.
    assert_close(found.pop("detections"), expected.pop("detections"), rtol=2e-3, atol=3)
    # Other processors add up in another order, which moves these numbers by about 1e-5.
    assert_close(found, expected, rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("variant", CASES)
def test_both_backends_are_the_same_model(subset, real, variant):
    assert_same_model(subset, real, build_tiny(subset, **CASES[variant]), build_tiny(real, **CASES[variant]))


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
        models.append(spread(backend.get("modeling").build_model(cfg)))
    # Constants like those of trained networks: with random ones, the activations of 50 layers grow to millions.
    for name, value in models[1].named_buffers():
        if name.endswith("norm.weight"):
            value.fill_(0.1 if "stem" in name else 0.3)
    assert_same_model(subset, real, *models)
