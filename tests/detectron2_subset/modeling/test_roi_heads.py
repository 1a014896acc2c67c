"""Box and mask heads together on every backend present, and alike on both."""

import pytest
import torch
from torch.testing import assert_close

from tests.detectron2_subset.modeling.tiny_detector import SIZES, enliven, tiny_config, truth


def make(backend, **options):
    """The heads of the tiny model on random maps of 32 channels."""
    shapes = {f"p{level}": backend.get("layers").ShapeSpec(channels=32, stride=2**level) for level in range(2, 6)}
    torch.manual_seed(0)
    return enliven(backend.get("modeling").build_roi_heads(tiny_config(backend, **options), shapes))


def feature_maps(count):
    generator = torch.Generator().manual_seed(0)
    return {f"p{level}": torch.randn(count, 32, 96 // 2**level, 96 // 2**level, generator=generator) for level in range(2, 6)}


def random_proposals(backend, images, count=40):
    """Proposals of every image, half of them near its objects."""
    structures, made = backend.get("structures"), []
    for image in images:
        generator, (height, width) = torch.Generator().manual_seed(image), SIZES[image]
        corners = torch.rand(count, 2, generator=generator) * torch.tensor([width - 20.0, height - 20.0])
        boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 16], dim=1)
        objects = truth(backend, image).gt_boxes.tensor
        if len(objects):
            near = objects[torch.arange(count // 2) % len(objects)]
            boxes[: count // 2] = near + torch.randn(count // 2, 4, generator=generator) * 2
        logits = torch.randn(count, generator=generator)
        made.append(structures.Instances((height, width), proposal_boxes=structures.Boxes(boxes), objectness_logits=logits))
    return made


def sample(backend, images=(0, 1, 2), seed=0, **options):
    heads, targets = make(backend, **options), [truth(backend, image) for image in images]
    torch.manual_seed(seed)
    with backend.get("utils.events").EventStorage() as storage:
        sampled = heads.label_and_sample_proposals(random_proposals(backend, images), targets)
    return sampled, {name: value for name, (value, _) in storage.latest().items()}


def test_sampling_keeps_to_its_numbers(backend):
    sampled, scalars = sample(backend, ROI_HEADS__BATCH_SIZE_PER_IMAGE=16, ROI_HEADS__POSITIVE_FRACTION=0.25)
    foreground = [(one.gt_classes < 5).sum().item() for one in sampled]
    assert [len(one) for one in sampled] == [16, 16, 16] and foreground == [4, 4, 0]
    assert all((one.gt_classes[:number] < 5).all() for one, number in zip(sampled, foreground)), "foreground comes first"
    assert scalars == {"roi_head/num_fg_samples": pytest.approx(8 / 3), "roi_head/num_bg_samples": pytest.approx(40 / 3)}


def test_foreground_overlaps_its_object_by_half_and_background_does_not(backend):
    structures = backend.get("structures")
    for image, one in zip((0, 1), sample(backend, images=(0, 1), ROI_HEADS__BATCH_SIZE_PER_IMAGE=128)[0]):
        objects = truth(backend, image)
        overlaps = structures.pairwise_iou(objects.gt_boxes, one.proposal_boxes)
        best, which = overlaps.max(dim=0)
        foreground = one.gt_classes < 5
        assert foreground.tolist() == (best >= 0.5).tolist() and 0 < foreground.sum() < len(one)
        assert torch.equal(one.gt_classes[foreground], objects.gt_classes[which[foreground]])
        assert_close(one.gt_boxes.tensor[foreground], objects.gt_boxes.tensor[which[foreground]])
        assert len(one.gt_masks) == len(one)


def test_an_image_without_objects_is_all_background(backend):
    (one,), scalars = sample(backend, images=(2,))
    assert (one.gt_classes == 5).all() and sorted(one.get_fields()) == ["gt_classes", "objectness_logits", "proposal_boxes"]
    assert scalars["roi_head/num_fg_samples"] == 0 and scalars["roi_head/num_bg_samples"] == len(one) == 32


@pytest.mark.parametrize("append", [True, False])
def test_the_ground_truth_is_a_proposal_where_wanted(backend, append):
    (one,), _ = sample(backend, images=(0,), ROI_HEADS__PROPOSAL_APPEND_GT=append, ROI_HEADS__BATCH_SIZE_PER_IMAGE=200)
    exact = backend.get("structures").pairwise_iou(truth(backend, 0).gt_boxes, one.proposal_boxes).max(dim=1).values > 0.9999
    assert exact.all().item() is append
    assert len(one) == (43 if append else 40) or not append


def test_fields_of_the_objects_go_along_and_others_do_not(backend):
    heads, objects = make(backend), truth(backend, 0)
    objects.gt_name = torch.tensor([7, 8, 9])
    objects.weight = torch.tensor([1, 2, 3])
    with backend.get("utils.events").EventStorage():
        (one,) = heads.label_and_sample_proposals(random_proposals(backend, (0,)), [objects])
    foreground = one.gt_classes < 5
    assert torch.equal(one.gt_name[foreground] - 6, one.gt_classes[foreground]) and not one.has("weight")


def test_proposals_between_the_thresholds_are_not_sampled(backend):
    options = {"ROI_HEADS__IOU_THRESHOLDS": [0.3, 0.7], "ROI_HEADS__IOU_LABELS": [0, -1, 1], "ROI_HEADS__BATCH_SIZE_PER_IMAGE": 200}
    (one,), _ = sample(backend, images=(0,), **options)
    best = backend.get("structures").pairwise_iou(truth(backend, 0).gt_boxes, one.proposal_boxes).max(dim=0).values
    assert not ((best > 0.3) & (best < 0.7)).any() and (one.gt_classes >= 0).all() and len(one) < 43


def test_foreground_is_neither_background_nor_ignored(backend):
    structures = backend.get("structures")
    images = [structures.Instances((9, 9), gt_classes=torch.tensor(labels)) for labels in ([0, 3, -1, 2], [3, 3])]
    found, masks = backend.get("modeling.roi_heads").select_foreground_proposals(images, 3)
    assert [one.gt_classes.tolist() for one in found] == [[0, 2], []]
    assert [mask.tolist() for mask in masks] == [[True, False, False, True], [False, False]]


def run(backend, heads, images=(0, 1, 2), training=True, masks="polygon"):
    """What the heads return, and the scalars."""
    structures = backend.get("structures")
    batch = structures.ImageList(torch.zeros(len(images), 3, 96, 96), [SIZES[image] for image in images])
    targets = [truth(backend, image, masks) for image in images if training]
    torch.manual_seed(4)
    with backend.get("utils.events").EventStorage() as storage:
        results = heads.train(training)(batch, feature_maps(len(images)), random_proposals(backend, images), targets or None)
    return *results, {name: value for name, (value, _) in storage.latest().items()}


def test_training_gives_the_sampled_proposals_and_three_losses(backend):
    sampled, losses, scalars = run(backend, make(backend))
    assert all(0 < len(one) <= 32 for one in sampled) and list(losses) == ["loss_cls", "loss_box_reg", "loss_mask"]
    assert all(loss.requires_grad and loss > 0 for loss in losses.values())
    assert {name.split("/")[0] for name in scalars} == {"roi_head", "fast_rcnn", "mask_rcnn"}


def test_without_masks_there_is_no_mask_head(backend):
    heads = make(backend, MASK_ON=False)
    assert not any(name.startswith("mask") for name in heads.state_dict()) and list(run(backend, heads)[1]) == ["loss_cls", "loss_box_reg"]
    found, _, _ = run(backend, heads, training=False)
    assert not found[0].has("pred_masks") and found[0].has("pred_boxes")


def test_a_batch_without_objects_trains(backend):
    _, losses, scalars = run(backend, make(backend), images=(2, 2))
    sum(losses.values()).backward()
    assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == 0 and losses["loss_mask"] == 0
    assert list(scalars) == ["roi_head/num_fg_samples", "roi_head/num_bg_samples", "fast_rcnn/cls_accuracy"]


def test_inference_gives_boxes_and_masks_and_no_losses(backend):
    found, losses, scalars = run(backend, make(backend), training=False)
    assert losses == {} and not scalars
    for image, one in zip((0, 1, 2), found):
        assert 0 < len(one) <= 100 and one.image_size == SIZES[image]
        assert one.pred_masks.shape == (len(one), 1, 16, 16) and 0 <= one.pred_masks.min() <= one.pred_masks.max() <= 1
        assert (one.scores > 0.05).all() and one.pred_classes.max() < 5


def test_masks_are_found_in_given_boxes(backend):
    heads = make(backend).eval()
    found, _, _ = run(backend, heads, training=False)
    expected = [one.pred_masks.clone() for one in found]
    for one in found:
        one.remove("pred_masks")
    again = heads.forward_with_given_boxes(feature_maps(3), found)
    for one, masks in zip(again, expected):
        assert_close(one.pred_masks, masks)
    with pytest.raises(AssertionError):
        heads.train().forward_with_given_boxes(feature_maps(3), found)


def test_training_needs_targets(backend):
    heads = make(backend).train()
    with pytest.raises(AssertionError):
        heads(None, feature_maps(1), random_proposals(backend, (0,)), None)


@pytest.mark.parametrize(
    "options",
    [
        {"KEYPOINT_ON": True},
        {"ROI_BOX_HEAD__TRAIN_ON_PRED_BOXES": True},
        {"ROI_BOX_HEAD__USE_FED_LOSS": True},
        {"ROI_BOX_HEAD__USE_SIGMOID_CE": True},
    ],
)
def test_what_the_subset_lacks_is_named(subset, options):
    (key,) = options
    with pytest.raises(NotImplementedError, match=f"{key.split('__')[-1]}.*install detectron2"):
        make(subset, **options)


def test_other_heads_than_the_standard_ones_are_named(subset):
    with pytest.raises(KeyError, match="Res5ROIHeads"):
        make(subset, ROI_HEADS__NAME="Res5ROIHeads")


@pytest.mark.parametrize("append", [True, False])
def test_both_backends_draw_the_same_proposals_from_one_seed(subset, real, append):
    (ours, our_scalars), (theirs, their_scalars) = (sample(one, ROI_HEADS__PROPOSAL_APPEND_GT=append) for one in (subset, real))
    assert our_scalars == their_scalars
    for one, other in zip(ours, theirs):
        assert list(one.get_fields()) == list(other.get_fields())
        assert_close(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert one.gt_classes.tolist() == other.gt_classes.tolist()
        assert_close(one.objectness_logits, other.objectness_logits)


VARIANTS = {
    "standard": {},
    "4conv1fc": {"ROI_BOX_HEAD__NUM_CONV": 4, "ROI_BOX_HEAD__NUM_FC": 1, "ROI_BOX_HEAD__NORM": "BN", "ROI_MASK_HEAD__NORM": "BN"},
    "group_norm": {"ROI_BOX_HEAD__NUM_CONV": 1, "ROI_BOX_HEAD__NORM": "GN", "ROI_MASK_HEAD__NORM": "GN"},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True},
    "roi_align": {"ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign", "ROI_MASK_HEAD__POOLER_SAMPLING_RATIO": 2},
    "smooth_l1": {"ROI_BOX_HEAD__SMOOTH_L1_BETA": 0.5, "ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 3.0},
}


@pytest.mark.parametrize("masks", ["polygon", "bitmask"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_give_the_same_losses_and_detections(subset, real, variant, masks):
    ours, theirs = (make(one, **VARIANTS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    (_, our_losses, our_scalars), (_, their_losses, their_scalars) = (
        run(b, heads, masks=masks) for b, heads in ((subset, ours), (real, theirs))
    )
    assert list(our_losses) == list(their_losses) and list(our_scalars) == list(their_scalars)
    assert_close(our_losses, their_losses, atol=1e-5, rtol=1e-5)
    assert our_scalars == pytest.approx(their_scalars)
    with torch.no_grad():
        found = [run(b, heads, training=False)[0] for b, heads in ((subset, ours), (real, theirs))]
    for one, other in zip(*found):
        assert one.pred_classes.tolist() == other.pred_classes.tolist() and len(one)
        assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-4, rtol=0)
        assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        assert_close(one.pred_masks, other.pred_masks, atol=1e-4, rtol=0)
