"""Box and mask heads together, on both backends, and alike."""

import pytest
import torch
from torch.testing import assert_close

from tests.detectron2_subset.modeling.tiny_detector import SIZES, spread_weights, tiny_config, truth


def make(backend, **options):
    """The heads of the tiny model on random maps of 32 channels."""
    shapes = {f"p{level}": backend.get("layers").ShapeSpec(channels=32, stride=2**level) for level in range(2, 6)}
    torch.manual_seed(0)
    return spread_weights(backend.get("modeling").build_roi_heads(tiny_config(backend, **options), shapes))


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


def sample(backend, images=(0, 1, 2), **options):
    """The sampled proposals and the recorded scalars."""
    heads, targets = make(backend, **options), [truth(backend, image) for image in images]
    torch.manual_seed(0)
    with backend.get("utils.events").EventStorage() as storage:
        sampled = heads.label_and_sample_proposals(random_proposals(backend, images), targets)
    return sampled, {name: value for name, (value, _) in storage.latest().items()}


def test_sampling_keeps_to_its_numbers(backend):
    sampled, scalars = sample(backend, ROI_HEADS__BATCH_SIZE_PER_IMAGE=16, ROI_HEADS__POSITIVE_FRACTION=0.25)
    foreground = [(one.gt_classes < 5).sum().item() for one in sampled]
    assert [len(one) for one in sampled] == [16, 16, 16] and foreground == [4, 4, 0]
    assert all((one.gt_classes[:number] < 5).all() for one, number in zip(sampled, foreground)), "foreground comes first"
    assert scalars == {"roi_head/num_fg_samples": pytest.approx(8 / 3), "roi_head/num_bg_samples": pytest.approx(40 / 3)}
    # The image without objects has no fields of objects.
    assert sorted(sampled[2].get_fields()) == ["gt_classes", "objectness_logits", "proposal_boxes"]


def test_foreground_overlaps_its_object_by_half_and_has_its_fields(backend):
    for image, one in zip((0, 1), sample(backend, images=(0, 1), ROI_HEADS__BATCH_SIZE_PER_IMAGE=128)[0]):
        objects = truth(backend, image)
        best, which = backend.get("structures").pairwise_iou(objects.gt_boxes, one.proposal_boxes).max(dim=0)
        foreground = one.gt_classes < 5
        assert foreground.tolist() == (best >= 0.5).tolist() and 0 < foreground.sum() < len(one) == len(one.gt_masks)
        assert torch.equal(one.gt_classes[foreground], objects.gt_classes[which[foreground]])
        assert_close(one.gt_boxes.tensor[foreground], objects.gt_boxes.tensor[which[foreground]])


@pytest.mark.parametrize("append", [True, False])
def test_the_ground_truth_is_a_proposal_on_request(backend, append):
    (one,), _ = sample(backend, images=(0,), ROI_HEADS__PROPOSAL_APPEND_GT=append, ROI_HEADS__BATCH_SIZE_PER_IMAGE=200)
    exact = backend.get("structures").pairwise_iou(truth(backend, 0).gt_boxes, one.proposal_boxes).max(dim=1).values > 0.9999
    assert exact.all().item() is append and len(one) == (43 if append else 40)


def test_proposals_between_the_thresholds_are_not_sampled(backend):
    options = {"ROI_HEADS__IOU_THRESHOLDS": [0.3, 0.7], "ROI_HEADS__IOU_LABELS": [0, -1, 1], "ROI_HEADS__BATCH_SIZE_PER_IMAGE": 200}
    (one,), _ = sample(backend, images=(0,), **options)
    best = backend.get("structures").pairwise_iou(truth(backend, 0).gt_boxes, one.proposal_boxes).max(dim=0).values
    assert not ((best > 0.3) & (best < 0.7)).any() and (one.gt_classes >= 0).all() and len(one) < 43


def run(backend, heads, images=(0, 1, 2), training=True, masks="polygon"):
    """The output of the heads, and the recorded scalars."""
    batch = backend.get("structures").ImageList(torch.zeros(len(images), 3, 96, 96), [SIZES[image] for image in images])
    targets = [truth(backend, image, masks) for image in images if training]
    torch.manual_seed(4)
    with backend.get("utils.events").EventStorage() as storage:
        results = heads.train(training)(batch, feature_maps(len(images)), random_proposals(backend, images), targets or None)
    return *results, {name: value for name, (value, _) in storage.latest().items()}


def test_training_gives_the_sampled_proposals_and_three_losses(backend):
    heads = make(backend)
    sampled, losses, scalars = run(backend, heads)
    assert all(0 < len(one) <= 32 for one in sampled) and list(losses) == ["loss_cls", "loss_box_reg", "loss_mask"]
    assert all(loss.requires_grad and loss > 0 for loss in losses.values())
    assert {name.split("/")[0] for name in scalars} == {"roi_head", "fast_rcnn", "mask_rcnn"}
    _, losses, scalars = run(backend, heads, images=(2, 2))
    sum(losses.values()).backward()
    assert losses["loss_cls"] > 0 and losses["loss_box_reg"] == losses["loss_mask"] == 0, "a batch without objects"
    assert list(scalars) == ["roi_head/num_fg_samples", "roi_head/num_bg_samples", "fast_rcnn/cls_accuracy"]
    with pytest.raises(AssertionError):
        heads(None, feature_maps(1), random_proposals(backend, (0,)), None)


def test_inference_gives_boxes_and_masks_and_no_losses(backend):
    found, losses, scalars = run(backend, make(backend), training=False)
    assert losses == {} and not scalars
    for image, one in zip((0, 1, 2), found):
        assert 0 < len(one) <= 100 and one.image_size == SIZES[image]
        assert one.pred_masks.shape == (len(one), 1, 16, 16) and 0 <= one.pred_masks.min() <= one.pred_masks.max() <= 1
        assert (one.scores > 0.05).all() and one.pred_classes.max() < 5


@pytest.mark.parametrize(
    "key", ["KEYPOINT_ON", *(f"ROI_BOX_HEAD__{key}" for key in ("TRAIN_ON_PRED_BOXES", "USE_FED_LOSS", "USE_SIGMOID_CE"))]
)
def test_what_the_subset_does_not_have_is_named(subset, key):
    with pytest.raises(NotImplementedError, match=f"{key.split('__')[-1]}.*install detectron2"):
        make(subset, **{key: True})
    with pytest.raises(KeyError, match="Res5ROIHeads"):
        make(subset, ROI_HEADS__NAME="Res5ROIHeads")


VARIANTS = {
    "standard": {},
    "4conv1fc": {"ROI_BOX_HEAD__NUM_CONV": 4, "ROI_BOX_HEAD__NUM_FC": 1, "ROI_BOX_HEAD__NORM": "BN", "ROI_MASK_HEAD__NORM": "BN"},
    "agnostic": {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True},
    "roi_align": {"ROI_BOX_HEAD__POOLER_TYPE": "ROIAlign", "ROI_MASK_HEAD__POOLER_SAMPLING_RATIO": 2},
    "smooth_l1": {"ROI_BOX_HEAD__SMOOTH_L1_BETA": 0.5, "ROI_BOX_HEAD__BBOX_REG_LOSS_WEIGHT": 3.0, "ROI_HEADS__PROPOSAL_APPEND_GT": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_sample_the_same_and_give_the_same_losses_and_detections(subset, real, variant):
    ours, theirs = (make(one, **VARIANTS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    masks = "bitmask" if variant == "standard" else "polygon"
    (our_sampled, *our_numbers), (their_sampled, *their_numbers) = (
        run(b, heads, masks=masks) for b, heads in ((subset, ours), (real, theirs))
    )
    for one, other in zip(our_sampled, their_sampled, strict=True):
        assert list(one.get_fields()) == list(other.get_fields()) and one.gt_classes.tolist() == other.gt_classes.tolist()
        assert_close(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert_close(one.objectness_logits, other.objectness_logits)
    assert [list(one) for one in our_numbers] == [list(one) for one in their_numbers]
    assert_close(our_numbers, their_numbers, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        found = [run(b, heads, training=False)[0] for b, heads in ((subset, ours), (real, theirs))]
    for one, other in zip(*found, strict=True):
        assert one.pred_classes.tolist() == other.pred_classes.tolist() and len(one)
        assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-4, rtol=0)
        assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        assert_close(one.pred_masks, other.pred_masks, atol=1e-4, rtol=0)
