"""Sampling of proposals, box and mask heads, and detections, on both backends."""

import pytest
import torch

from tests.detectron2_subset.modeling.tiny_detector import SIZES, spread, tiny_config, truth


def make(backend, **options):
    """The heads of the tiny model on random maps of 32 channels."""
    shapes = {f"p{level}": backend.get("layers").ShapeSpec(channels=32, stride=2**level) for level in range(2, 6)}
    torch.manual_seed(0)
    return spread(backend.get("modeling").build_roi_heads(tiny_config(backend, **options), shapes))


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


FAR = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]]


def infer(backend, boxes, scores, topk=-1):
    """Detections (box, score, class) and their rows, with a threshold of 0.1 and NMS at 0.5; class 2 is the background."""
    single = backend.get("modeling.roi_heads.fast_rcnn").fast_rcnn_inference_single_image
    found, rows = single(torch.tensor(boxes), torch.tensor(scores), (60, 80), 0.1, 0.5, topk)
    assert list(found.get_fields()) == ["pred_boxes", "scores", "pred_classes"] and found.image_size == (60, 80)
    return list(zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist())), rows.tolist()


def test_detections_are_above_the_threshold_best_first_and_have_their_row(backend):
    found, rows = infer(backend, FAR, [[0.25, 0.05, 0.7], [0.2, 0.75, 0.05], [0.1, 0.1, 0.8]])
    assert found == [(FAR[1], 0.75, 1), (FAR[0], 0.25, 0), (FAR[1], pytest.approx(0.2), 0)] and rows == [1, 0, 1]
    assert infer(backend, FAR, [[0.0, 0.0, 1.0]] * 3) == ([], [])
    scores = [[0.3, 0.0, 0.7], [0.9, 0.0, 0.1], [0.5, 0.0, 0.5]]
    assert [infer(backend, FAR, scores, topk=number)[1] for number in (2, 0, -1)] == [[1, 2], [], [1, 2, 0]]


def test_boxes_belong_to_a_class_unless_they_are_agnostic(backend):
    assert [box for box, _, _ in infer(backend, [FAR[0] + FAR[1]], [[0.9, 0.8, 0.0]])[0]] == [FAR[0], FAR[1]]
    assert [box for box, _, _ in infer(backend, [FAR[2]], [[0.9, 0.8, 0.0]])[0]] == [FAR[2], FAR[2]]


def test_boxes_are_suppressed_within_a_class_only_and_clipped(backend):
    near = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]]
    found, rows = infer(backend, near, [[0.9, 0.2, 0.0], [0.8, 0.7, 0.0]])
    assert rows == [0, 1] and [cls for _, _, cls in found] == [0, 1]
    assert infer(backend, [[-5.0, -5.0, 100.0, 100.0]], [[0.9, 0.0, 0.1]])[0][0][0] == [0.0, 0.0, 80.0, 60.0]


def test_rows_with_nan_or_infinity_are_removed(backend):
    found, rows = infer(backend, [[float("nan"), 0.0, 1.0, 1.0], *FAR], [[0.9, 0.0, 0.1]] * 2 + [[float("inf"), 0.9, 0.0], [0.2, 0.0, 0.8]])
    assert [box for box, _, _ in found] == [FAR[0], FAR[2]] and rows == [0, 1]


def test_the_config_describes_the_predictions(backend):
    cfg = backend.get("config").get_cfg()
    options = ["MODEL.ROI_HEADS.NUM_CLASSES", 7, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3, "MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.4]
    options += ["TEST.DETECTIONS_PER_IMAGE", 9, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True, "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA", 0.5]
    options += ["MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", 2.0, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (1.0, 2.0, 3.0, 4.0)]
    cfg.merge_from_list(options)
    layers = backend.get("modeling").FastRCNNOutputLayers(cfg, backend.get("layers").ShapeSpec(channels=8))
    assert layers.cls_score.weight.shape == (8, 8) and layers.bbox_pred.weight.shape == (4, 8)
    assert (layers.test_score_thresh, layers.test_nms_thresh, layers.test_topk_per_image) == (0.3, 0.4, 9)
    assert layers.smooth_l1_beta == 0.5 and layers.loss_weight["loss_box_reg"] == 2.0
    assert tuple(layers.box2box_transform.weights) == (1.0, 2.0, 3.0, 4.0)
