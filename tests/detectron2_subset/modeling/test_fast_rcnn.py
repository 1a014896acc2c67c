"""Classes and boxes of proposals, on both backends, and alike."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

SIZE = (60, 80)
CLASSES = 3


def make(backend, **options):
    torch.manual_seed(0)
    transform = backend.get("modeling.box_regression").Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    options = {"box2box_transform": transform, "num_classes": CLASSES, **options}
    return backend.get("modeling.roi_heads").FastRCNNOutputLayers(backend.get("layers").ShapeSpec(channels=8), **options)


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 30
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 25], dim=1)


def proposals(backend, *classes, with_gt_boxes=True):
    """An image for each list of classes (3 = background), with random boxes."""
    structures, generator, made = backend.get("structures"), torch.Generator().manual_seed(0), []
    for labels in classes:
        boxes, targets = random_boxes(len(labels), generator), random_boxes(len(labels), generator)
        one = structures.Instances(SIZE, proposal_boxes=structures.Boxes(boxes), gt_classes=torch.tensor(labels, dtype=torch.int64))
        if with_gt_boxes:
            one.gt_boxes = structures.Boxes(targets)
        made.append(one)
    return made


def predictions(count, agnostic=False):
    generator = torch.Generator().manual_seed(5)
    deltas = torch.randn(count, 4 if agnostic else 4 * CLASSES, generator=generator)
    return torch.randn(count, CLASSES + 1, generator=generator).requires_grad_(), deltas.requires_grad_()


def losses(backend, layers, predicted, given):
    """The losses and the recorded scalars."""
    with backend.get("utils.events").EventStorage() as storage:
        computed = layers.losses(predicted, given)
    return computed, {name: value for name, (value, _) in storage.latest().items()}


def test_layers_have_their_public_names_and_start_small(backend):
    state = make(backend, num_classes=80).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes == {"cls_score.weight": (81, 8), "cls_score.bias": (81,), "bbox_pred.weight": (320, 8), "bbox_pred.bias": (320,)}
    assert state["cls_score.weight"].std().item() == pytest.approx(0.01, rel=0.1)
    assert state["bbox_pred.weight"].std().item() == pytest.approx(0.001, rel=0.1)
    assert not state["cls_score.bias"].any() and not state["bbox_pred.bias"].any()
    assert make(backend, cls_agnostic_bbox_reg=True).bbox_pred.weight.shape == (4, 8)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_cross_entropy_and_smooth_l1_over_all_proposals(backend, agnostic, beta):
    layers = make(backend, cls_agnostic_bbox_reg=agnostic, smooth_l1_beta=beta)
    given, (scores, deltas) = proposals(backend, [0, 3, 2], [3, 1]), predictions(5, agnostic)
    computed, _ = losses(backend, layers, (scores, deltas), given)
    classes = torch.tensor([0, 3, 2, 3, 1])
    assert list(computed) == ["loss_cls", "loss_box_reg"]
    assert_close(computed["loss_cls"], F.cross_entropy(scores, classes))
    sources, targets = (torch.cat([getattr(one, name).tensor for one in given]) for name in ("proposal_boxes", "gt_boxes"))
    expected, rows = 0.0, torch.zeros(5, dtype=torch.bool)
    for row in (0, 2, 4):
        own = deltas[row] if agnostic else deltas[row, 4 * classes[row] : 4 * classes[row] + 4]
        error = (own - layers.box2box_transform.get_deltas(sources[row][None], targets[row][None])[0]).abs()
        expected += (error if beta == 0 else torch.where(error < beta, error**2 / (2 * beta), error - beta / 2)).sum()
        rows[row] = True
    assert_close(computed["loss_box_reg"], expected / 5)
    computed["loss_box_reg"].backward()
    assert (deltas.grad.ne(0).sum(dim=1) == 4 * rows).all(), "only the offsets of the class of a foreground proposal have gradients"


@pytest.mark.parametrize(("weight", "factors"), [(3.0, (3, 3)), ({"loss_box_reg": 2.0}, (1, 2)), ({"loss_cls": 0.5}, (0.5, 1))])
def test_losses_are_weighted_by_name_or_together(backend, weight, factors):
    given, predicted = proposals(backend, [0, 3, 1]), predictions(3)
    plain, weighted = (losses(backend, make(backend, loss_weight=one), predicted, given)[0] for one in (1.0, weight))
    for name, factor in zip(("loss_cls", "loss_box_reg"), factors):
        assert_close(weighted[name], plain[name] * factor)


def test_scalars_count_what_is_right_and_what_is_missed(backend):
    scores = F.one_hot(torch.tensor([0, 3, 2, 3, 1]), CLASSES + 1).float()
    _, scalars = losses(backend, make(backend), (scores, predictions(5)[1]), proposals(backend, [0, 1, 1, 3, 3]))
    assert scalars["fast_rcnn/cls_accuracy"] == pytest.approx(2 / 5)
    assert scalars["fast_rcnn/fg_cls_accuracy"] == scalars["fast_rcnn/false_negative"] == pytest.approx(1 / 3)


def test_images_without_objects_have_a_class_loss_only_and_no_proposals_have_none(backend):
    computed, scalars = losses(backend, make(backend), predictions(3), proposals(backend, [3, 3, 3], with_gt_boxes=False))
    assert computed["loss_cls"] > 0 and computed["loss_box_reg"] == 0 and list(scalars) == ["fast_rcnn/cls_accuracy"]
    scores, deltas = predictions(0)
    computed, scalars = losses(backend, make(backend), (scores, deltas), proposals(backend, []))
    assert computed["loss_cls"] == 0 and computed["loss_box_reg"] == 0 and not scalars
    sum(computed.values()).backward()
    assert scores.grad.shape == (0, 4) and deltas.grad.shape == (0, 12)


FAR = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]]


def infer(backend, boxes, scores, topk=-1):
    """Detections (box, score, class) and their rows, with a threshold of 0.1 and NMS at 0.5; class 2 is the background."""
    single = backend.get("modeling.roi_heads.fast_rcnn").fast_rcnn_inference_single_image
    found, rows = single(torch.tensor(boxes), torch.tensor(scores), SIZE, 0.1, 0.5, topk)
    assert list(found.get_fields()) == ["pred_boxes", "scores", "pred_classes"] and found.image_size == SIZE
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


def test_the_config_is_read(backend):
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


def test_loss_types_that_the_subset_does_not_have_are_named(subset):
    cfg = subset.get("config").get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE = "giou"
    with pytest.raises(NotImplementedError, match=r"giou.*install detectron2"):
        subset.get("modeling").FastRCNNOutputLayers(cfg, subset.get("layers").ShapeSpec(channels=8))


@pytest.mark.parametrize("options", [{}, {"cls_agnostic_bbox_reg": True}, {"smooth_l1_beta": 0.3, "loss_weight": {"loss_cls": 2.0}}])
def test_both_backends_give_the_same_losses_scalars_gradients_and_detections(subset, real, options):
    results = []
    for one in (subset, real):
        layers = make(one, **options)
        given, (scores, deltas) = (
            proposals(one, [0, 3, 2, 0, 3], [3, 3], [], [1, 1, 0, 3]),
            predictions(11, "cls_agnostic_bbox_reg" in options),
        )
        computed, scalars = losses(one, layers, (scores, deltas), given)
        sum(computed.values()).backward()
        found, rows = layers.inference((scores.detach(), deltas.detach()), given)
        results.append(([computed, scalars, scores.grad, deltas.grad], found, [one.tolist() for one in rows]))
    (ours, our_found, our_rows), (theirs, their_found, their_rows) = results
    assert list(ours[0]) == list(theirs[0]) and list(ours[1]) == list(theirs[1]) and our_rows == their_rows
    assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    assert sum(map(len, our_found)) > 10
    for one, other in zip(our_found, their_found, strict=True):
        assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-4, rtol=0)
        assert_close(one.scores, other.scores)
        assert one.pred_classes.tolist() == other.pred_classes.tolist()
