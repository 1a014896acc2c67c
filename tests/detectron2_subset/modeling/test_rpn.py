"""The region proposal network, on both backends, with the same numbers."""

import pytest
import torch

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


@pytest.mark.parametrize("training, expected", [(True, 7), (False, 5)])
def test_numbers_of_proposals_differ_between_training_and_inference(backend, training, expected):
    options = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 7, "MODEL.RPN.POST_NMS_TOPK_TEST", 5]
    proposals, _, _ = run(backend, make_rpn(backend, *options), training=training)
    assert [len(found) for found in proposals] == [expected, expected]
    assert not proposals[0].proposal_boxes.tensor.requires_grad and not proposals[0].objectness_logits.requires_grad


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
