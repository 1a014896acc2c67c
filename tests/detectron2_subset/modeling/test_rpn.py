"""The region proposal network, on both backends, with the same numbers."""

import pytest
import torch
from torch.testing import assert_close

SIZE = (64, 80)
LEVELS = ("p2", "p3", "p4")


def make_rpn(backend, *options):
    """A small RPN on the maps p2, p3, p4 of 8 channels, with the same weights on both backends."""
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["MODEL.RPN.IN_FEATURES", list(LEVELS), "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32]]])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, *options])
    shapes = {f"p{i}": backend.get("layers").ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4)}
    torch.manual_seed(0)
    return backend.get("modeling").build_proposal_generator(cfg, shapes)


def make_inputs(backend, boxes=(4, 0)):
    """Two images, their feature maps, and ``boxes`` ground truth boxes in each."""
    structures, generator = backend.get("structures"), torch.Generator().manual_seed(0)
    features = {f"p{i}": torch.randn(2, 8, SIZE[0] // 2**i, SIZE[1] // 2**i, generator=generator) for i in (2, 3, 4)}
    truths = []
    for count in boxes:
        corners = torch.rand(count, 2, generator=generator) * 40
        gt_boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 30], dim=1)
        truths.append(structures.Instances(SIZE, gt_boxes=structures.Boxes(gt_boxes)))
    return structures.ImageList(torch.zeros(2, 3, *SIZE), [SIZE, (50, 60)]), features, truths


def run(backend, rpn, *, training=True, boxes=(4, 0)):
    """Proposals, losses and the recorded scalars."""
    images, features, truths = make_inputs(backend, boxes)
    torch.manual_seed(1)
    with backend.get("utils.events").EventStorage() as storage:
        proposals, losses = rpn.train(training)(images, features, truths if training else None)
    return proposals, losses, storage.latest()


def anchors_of(backend, rpn):
    return rpn.anchor_generator([make_inputs(backend)[1][name] for name in LEVELS])


def test_logits_and_offsets_belong_to_the_anchor_of_their_cell(backend):
    rpn = make_rpn(backend, "MODEL.RPN.POST_NMS_TOPK_TEST", 1).eval()
    images, features, _ = make_inputs(backend)
    for level in features.values():
        level.zero_()
    # One cell of p3 is active; its second anchor moves right by its own width.
    features["p3"][0, 0, 5, 3] = 1.0
    head = rpn.rpn_head
    with torch.no_grad():
        for layer in (head.conv, head.objectness_logits, head.anchor_deltas):
            layer.weight.zero_()
        head.conv.weight[0, 0, 1, 1] = head.objectness_logits.weight[1, 0] = head.anchor_deltas.weight[4, 0] = 1.0
    found = rpn(images, features, None)[0][0]
    center = torch.tensor([3 * 8.0, 5 * 8.0]) + torch.tensor([16.0, 0.0])
    assert_close(found.proposal_boxes.tensor, torch.cat([center - 8, center + 8])[None], rtol=0, atol=1e-4)
    assert_close(found.objectness_logits, torch.ones(1))


@pytest.mark.parametrize("training, expected", [(True, 7), (False, 5)])
def test_numbers_of_proposals_differ_between_training_and_inference(backend, training, expected):
    options = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 7, "MODEL.RPN.POST_NMS_TOPK_TEST", 5]
    proposals, _, _ = run(backend, make_rpn(backend, *options), training=training)
    assert [len(found) for found in proposals] == [expected, expected]
    assert not proposals[0].proposal_boxes.tensor.requires_grad and not proposals[0].objectness_logits.requires_grad


def test_sampled_anchors_fill_the_batch_and_positives_overlap_their_box(backend):
    rpn, structures = make_rpn(backend), backend.get("structures")
    anchors = anchors_of(backend, rpn)
    labels, matched = rpn.label_and_sample_anchors(anchors, make_inputs(backend)[2])
    boxes, positive = structures.Boxes.cat(anchors), labels[0] == 1
    assert [(each >= 0).sum() for each in labels] == [32, 32] and 0 < positive.sum() <= 16
    overlaps = structures.pairwise_iou(structures.Boxes(matched[0][positive]), boxes[positive]).diagonal()
    assert (overlaps > 0.1).all()
    # The second image has no ground truth: all its anchors are background.
    assert not (labels[1] == 1).any() and matched[1].shape == boxes.tensor.shape


def test_anchors_beyond_the_border_are_not_used_with_a_threshold(backend):
    rpn = make_rpn(backend, "MODEL.RPN.BOUNDARY_THRESH", 0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10_000)
    anchors = anchors_of(backend, rpn)
    labels, _ = rpn.label_and_sample_anchors(anchors, make_inputs(backend)[2])
    assert (labels[1] >= 0).tolist() == backend.get("structures").Boxes.cat(anchors).inside_box(SIZE).tolist()


def test_training_stops_without_ground_truth_or_with_predictions_that_are_not_finite(backend):
    rpn, (images, features, _) = make_rpn(backend).train(), make_inputs(backend)
    with pytest.raises(AssertionError):
        rpn(images, features, None)
    rpn.rpn_head.objectness_logits.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError):
        run(backend, rpn)


@pytest.mark.parametrize(
    ("channels", "options"),
    [(16, []), (8, ["ANCHOR_GENERATOR.SIZES", [[8], [16, 32]]]), (8, ["RPN.CONV_DIMS", [0, 4]]), (8, ["RPN.HEAD_NAME", "NoSuchHead"])],
)
def test_impossible_heads_are_refused(backend, channels, options):
    cfg, spec = backend.get("config").get_cfg(), backend.get("layers").ShapeSpec
    cfg.MODEL.merge_from_list(options)
    with pytest.raises((ValueError, AssertionError, KeyError)):
        build = backend.get("modeling.proposal_generator").build_rpn_head
        build(cfg, [spec(channels=8, stride=4), spec(channels=channels, stride=8)])


@pytest.mark.parametrize(
    ("key", "error"), [("MODEL.RPN.BBOX_REG_LOSS_TYPE giou", NotImplementedError), ("MODEL.PROPOSAL_GENERATOR.NAME Precomputed", KeyError)]
)
def test_the_subset_names_what_it_does_not_have(subset, key, error):
    with pytest.raises(error, match=key.split()[1]):
        make_rpn(subset, *key.split())
