"""Classes and boxes of proposals on every backend present, and alike on both."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

SIZE = (60, 80)
CLASSES = 3


def make(backend, seed=0, **options):
    torch.manual_seed(seed)
    transform = backend.get("modeling.box_regression").Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    shape = backend.get("layers").ShapeSpec(channels=8)
    options = {"box2box_transform": transform, "num_classes": CLASSES, **options}
    return backend.get("modeling.roi_heads").FastRCNNOutputLayers(shape, **options)


def random_boxes(count, generator):
    corners = torch.rand(count, 2, generator=generator) * 30
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 25], dim=1)


def proposals(backend, *classes, with_gt_boxes=True, seed=0):
    """An image for each list of classes (3 = background), with random boxes."""
    structures, generator = backend.get("structures"), torch.Generator().manual_seed(seed)
    made = []
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
    with backend.get("utils.events").EventStorage() as storage:
        computed = layers.losses(predicted, given)
    return computed, {name: value for name, (value, _) in storage.latest().items()}


def test_layers_have_their_public_names_and_shapes(backend):
    shapes = {name: tuple(value.shape) for name, value in make(backend).state_dict().items()}
    assert shapes == {"cls_score.weight": (4, 8), "cls_score.bias": (4,), "bbox_pred.weight": (12, 8), "bbox_pred.bias": (12,)}
    assert make(backend, cls_agnostic_bbox_reg=True).bbox_pred.weight.shape == (4, 8)


def test_weights_start_small_and_biases_at_zero(backend):
    layers = make(backend, num_classes=80)
    assert layers.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert layers.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not layers.cls_score.bias.any() and not layers.bbox_pred.bias.any()


def test_pooled_maps_are_flattened(backend):
    shape = backend.get("layers").ShapeSpec(channels=2, height=2, width=2)
    transform = backend.get("modeling.box_regression").Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    layers = backend.get("modeling.roi_heads").FastRCNNOutputLayers(shape, box2box_transform=transform, num_classes=CLASSES)
    x = torch.randn(5, 2, 2, 2)
    scores, deltas = layers(x)
    assert_close(scores, x.flatten(1) @ layers.cls_score.weight.T)
    assert deltas.shape == (5, 12)


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_cross_entropy_and_smooth_l1_over_all_proposals(backend, agnostic, beta):
    layers = make(backend, cls_agnostic_bbox_reg=agnostic, smooth_l1_beta=beta)
    given, (scores, deltas) = proposals(backend, [0, 3, 2], [3, 1]), predictions(5, agnostic)
    computed, _ = losses(backend, layers, (scores, deltas), given)
    classes = torch.tensor([0, 3, 2, 3, 1])
    assert list(computed) == ["loss_cls", "loss_box_reg"]
    assert_close(computed["loss_cls"], F.cross_entropy(scores, classes))
    expected = 0.0
    sources = torch.cat([one.proposal_boxes.tensor for one in given])
    targets = torch.cat([one.gt_boxes.tensor for one in given])
    for row in (0, 2, 4):
        own = deltas[row] if agnostic else deltas[row, 4 * classes[row] : 4 * classes[row] + 4]
        wanted = layers.box2box_transform.get_deltas(sources[row][None], targets[row][None])[0]
        error = (own - wanted).abs()
        expected += (error if beta == 0 else torch.where(error < beta, error**2 / (2 * beta), error - beta / 2)).sum()
    assert_close(computed["loss_box_reg"], expected / 5)


def test_only_the_deltas_of_the_own_class_of_foreground_learn(backend):
    scores, deltas = predictions(3)
    computed, _ = losses(backend, make(backend), (scores, deltas), proposals(backend, [1, 3, 0]))
    computed["loss_box_reg"].backward()
    assert deltas.grad.ne(0).nonzero().tolist() == [[0, 4], [0, 5], [0, 6], [0, 7], [2, 0], [2, 1], [2, 2], [2, 3]]


@pytest.mark.parametrize(("weight", "factors"), [(3.0, (3, 3)), ({"loss_box_reg": 2.0}, (1, 2)), ({"loss_cls": 0.5}, (0.5, 1))])
def test_losses_are_weighted_by_name_or_together(backend, weight, factors):
    given, predicted = proposals(backend, [0, 3, 1]), predictions(3)
    plain, _ = losses(backend, make(backend), predicted, given)
    weighted, _ = losses(backend, make(backend, loss_weight=weight), predicted, given)
    for name, factor in zip(("loss_cls", "loss_box_reg"), factors):
        assert_close(weighted[name], plain[name] * factor)


def test_scalars_count_what_is_right_and_what_is_missed(backend):
    scores = F.one_hot(torch.tensor([0, 3, 2, 3, 1]), CLASSES + 1).float()
    _, scalars = losses(backend, make(backend), (scores, predictions(5)[1]), proposals(backend, [0, 1, 1, 3, 3]))
    assert scalars["fast_rcnn/cls_accuracy"] == pytest.approx(2 / 5)
    assert scalars["fast_rcnn/fg_cls_accuracy"] == pytest.approx(1 / 3)
    assert scalars["fast_rcnn/false_negative"] == pytest.approx(1 / 3)


def test_an_image_without_objects_has_a_class_loss_only(backend):
    computed, scalars = losses(backend, make(backend), predictions(3), proposals(backend, [3, 3, 3], with_gt_boxes=False))
    assert computed["loss_cls"] > 0 and computed["loss_box_reg"] == 0
    assert list(scalars) == ["fast_rcnn/cls_accuracy"]


def test_without_proposals_losses_are_zero_and_differentiable(backend):
    scores, deltas = predictions(0)
    computed, scalars = losses(backend, make(backend), (scores, deltas), proposals(backend, []))
    assert computed["loss_cls"] == 0 and computed["loss_box_reg"] == 0 and not scalars
    sum(computed.values()).backward()
    assert scores.grad.shape == (0, 4) and deltas.grad.shape == (0, 12)


def infer(backend, boxes, scores, thresh=0.1, nms=0.5, topk=-1):
    single = backend.get("modeling.roi_heads.fast_rcnn").fast_rcnn_inference_single_image
    return single(torch.tensor(boxes), torch.tensor(scores), SIZE, thresh, nms, topk)


FAR = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [40.0, 40.0, 50.0, 50.0]]


def test_detections_are_above_the_threshold_best_first_and_say_their_row(backend):
    found, rows = infer(backend, FAR, [[0.3, 0.05, 0.65], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]])
    assert found.scores.tolist() == pytest.approx([0.8, 0.3, 0.2])
    assert found.pred_classes.tolist() == [1, 0, 0] and rows.tolist() == [1, 0, 1]
    assert found.pred_boxes.tensor.tolist() == [FAR[1], FAR[0], FAR[1]]
    assert list(found.get_fields()) == ["pred_boxes", "scores", "pred_classes"] and found.image_size == SIZE


def test_each_class_has_its_own_boxes_unless_they_are_agnostic(backend):
    found, _ = infer(backend, [FAR[0] + FAR[1]], [[0.9, 0.8, 0.0]])
    assert found.pred_boxes.tensor.tolist() == [FAR[0], FAR[1]]
    found, _ = infer(backend, [FAR[2]], [[0.9, 0.8, 0.0]])
    assert found.pred_boxes.tensor.tolist() == [FAR[2], FAR[2]]


def test_overlapping_boxes_are_suppressed_within_a_class_only(backend):
    near = [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]]
    found, rows = infer(backend, near, [[0.9, 0.2, 0.0], [0.8, 0.7, 0.0]])
    assert rows.tolist() == [0, 1] and found.pred_classes.tolist() == [0, 1]


def test_only_the_best_are_kept(backend):
    scores = [[0.3, 0.0, 0.7], [0.9, 0.0, 0.1], [0.5, 0.0, 0.5]]
    assert infer(backend, FAR, scores, topk=2)[1].tolist() == [1, 2]
    assert infer(backend, FAR, scores, topk=0)[1].tolist() == []
    assert infer(backend, FAR, scores, topk=-1)[1].tolist() == [1, 2, 0]


def test_boxes_are_clipped_to_the_image(backend):
    found, _ = infer(backend, [[-5.0, -5.0, 100.0, 100.0]], [[0.9, 0.0, 0.1]])
    assert found.pred_boxes.tensor.tolist() == [[0.0, 0.0, 80.0, 60.0]]


def test_rows_with_nan_or_infinity_are_dropped(backend):
    found, _ = infer(backend, [[float("nan"), 0.0, 1.0, 1.0], *FAR], [[0.9, 0.9, 0.0]] * 2 + [[float("inf"), 0.9, 0.0], [0.2, 0.0, 0.8]])
    assert sorted(map(tuple, found.pred_boxes.tensor.tolist())) == sorted([tuple(FAR[0])] * 2 + [tuple(FAR[2])])


def test_nothing_found_is_an_empty_result(backend):
    for boxes, scores in ((FAR, [[0.0, 0.0, 1.0]] * 3), (torch.zeros(0, 8).tolist(), torch.zeros(0, 3).tolist())):
        single = backend.get("modeling.roi_heads.fast_rcnn").fast_rcnn_inference_single_image
        found, rows = single(torch.tensor(boxes).reshape(-1, 4), torch.tensor(scores).reshape(-1, 3), SIZE, 0.1, 0.5, 10)
        assert len(found) == 0 and rows.shape == (0,) and found.pred_boxes.tensor.shape == (0, 4)


def test_inference_moves_the_proposals_and_splits_the_images(backend):
    layers = make(backend, test_score_thresh=0.05, test_topk_per_image=4)
    given = proposals(backend, [0, 1, 2], [], [3, 0])
    scores, deltas = (value.detach() for value in predictions(5))
    boxes, probabilities = layers.predict_boxes((scores, deltas), given), layers.predict_probs((scores, deltas), given)
    assert [len(one) for one in boxes] == [len(one) for one in probabilities] == [3, 0, 2]
    assert_close(torch.cat(probabilities), F.softmax(scores, 1))
    sources = torch.cat([one.proposal_boxes.tensor for one in given])
    assert_close(torch.cat(boxes), layers.box2box_transform.apply_deltas(deltas, sources))
    found, rows = layers.inference((scores, deltas), given)
    assert [len(one) for one in found] == [4, 0, 4] and [len(one) for one in rows] == [4, 0, 4]


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


def test_loss_types_that_the_subset_lacks_are_named(subset):
    with pytest.raises(ValueError, match=r"giou.*install detectron2"):
        make(subset, box_reg_loss_type="giou")


@pytest.mark.parametrize("options", [{}, {"cls_agnostic_bbox_reg": True}, {"smooth_l1_beta": 0.3, "loss_weight": {"loss_cls": 2.0}}])
def test_both_backends_give_the_same_losses_scalars_gradients_and_detections(subset, real, options):
    results = []
    for one in (subset, real):
        layers = make(one, **options)
        given, (scores, deltas) = (
            proposals(one, [0, 3, 2, -1, 3], [3, 3], [], [1, 1, 0, 3]),
            predictions(11, "cls_agnostic_bbox_reg" in options),
        )
        # -1 is ignored by the box loss, but has no class: only what both may be given.
        for image in given:
            image.gt_classes = image.gt_classes.clamp(min=0)
        computed, scalars = losses(one, layers, (scores, deltas), given)
        sum(computed.values()).backward()
        found, rows = layers.inference((scores.detach(), deltas.detach()), given)
        results.append((computed, scalars, scores.grad, deltas.grad, found, rows))
    ours, theirs = results
    assert list(ours[0]) == list(theirs[0]) and list(ours[1]) == list(theirs[1])
    for part in range(4):
        assert_close(ours[part], theirs[part], atol=1e-6, rtol=1e-5)
    for one, other in zip(ours[4], theirs[4]):
        assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-4, rtol=0)
        assert_close(one.scores, other.scores)
        assert one.pred_classes.tolist() == other.pred_classes.tolist()
    assert [rows.tolist() for rows in ours[5]] == [rows.tolist() for rows in theirs[5]]
