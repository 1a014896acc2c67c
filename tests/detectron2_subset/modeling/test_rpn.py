"""The region proposal network, on every backend present, and the same numbers on both."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

SIZE = (64, 80)
LEVELS = ("p2", "p3", "p4")


def make_rpn(backend, *options, in_features=LEVELS, seed=0):
    """A small RPN on the maps p2, p3, p4 of 8 channels. The same weights on every backend, if initialised alike."""
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["MODEL.RPN.IN_FEATURES", list(in_features), "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32]]])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, *options])
    shapes = {f"p{i}": backend.get("layers").ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4)}
    torch.manual_seed(seed)
    return backend.get("modeling").build_proposal_generator(cfg, shapes)


def make_inputs(backend, boxes=(4, 0)):
    """Two images, their feature maps and as many ground truth boxes as ``boxes`` says."""
    structures, generator = backend.get("structures"), torch.Generator().manual_seed(0)
    features = {f"p{i}": torch.randn(2, 8, SIZE[0] // 2**i, SIZE[1] // 2**i, generator=generator) for i in (2, 3, 4)}
    truths = []
    for count in boxes:
        corners = torch.rand(count, 2, generator=generator) * 40
        gt_boxes = torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 30], dim=1)
        truths.append(structures.Instances(SIZE, gt_boxes=structures.Boxes(gt_boxes)))
    return structures.ImageList(torch.zeros(2, 3, *SIZE), [SIZE, (50, 60)]), features, truths


def run(backend, rpn, *, training=True, seed=1, inputs=None):
    """Proposals, losses and the scalars recorded."""
    images, features, truths = inputs or make_inputs(backend)
    torch.manual_seed(seed)
    with backend.get("utils.events").EventStorage() as storage:
        proposals, losses = rpn.train(training)(images, features, truths if training else None)
    return proposals, losses, storage.latest()


def test_parameters_have_their_public_names(backend):
    layers = ("conv", "objectness_logits", "anchor_deltas")
    assert list(make_rpn(backend).state_dict()) == [f"rpn_head.{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    names = list(make_rpn(backend, "MODEL.RPN.CONV_DIMS", [-1, 6]).state_dict())
    assert names[0] == "rpn_head.conv.conv0.weight" and "rpn_head.conv.conv1.bias" in names


def test_weights_start_small_and_biases_at_zero(backend):
    for name, value in make_rpn(backend).state_dict().items():
        assert (value == 0).all() if name.endswith("bias") else 0.005 < value.std() < 0.02


def test_the_head_gives_one_logit_and_four_offsets_an_anchor(backend):
    head = make_rpn(backend, "MODEL.RPN.CONV_DIMS", [16, -1]).rpn_head
    logits, deltas = head([torch.zeros(2, 8, 4, 5), torch.zeros(2, 8, 2, 3)])
    assert [level.shape for level in logits] == [(2, 3, 4, 5), (2, 3, 2, 3)]
    assert [level.shape for level in deltas] == [(2, 12, 4, 5), (2, 12, 2, 3)]


def test_without_offsets_proposals_are_anchors_clipped_to_their_image(backend):
    rpn = make_rpn(backend, "MODEL.RPN.NMS_THRESH", 1.0, "MODEL.RPN.POST_NMS_TOPK_TEST", 5000)
    torch.nn.init.zeros_(rpn.rpn_head.anchor_deltas.weight)
    images, features, _ = make_inputs(backend)
    proposals, losses, _ = run(backend, rpn, training=False)
    anchors = backend.get("structures").Boxes.cat(rpn.anchor_generator([features[name] for name in LEVELS]))
    assert losses == {}
    for image_size, found in zip(images.image_sizes, proposals, strict=True):
        clipped = backend.get("structures").Boxes(anchors.tensor.clone())
        clipped.clip(image_size)
        expected = clipped[clipped.nonempty()].tensor.unique(dim=0)
        assert found.image_size == image_size
        assert_close(found.proposal_boxes.tensor.unique(dim=0), expected, rtol=0, atol=1e-4)


def test_logits_and_offsets_belong_to_the_anchor_of_their_cell(backend):
    rpn = make_rpn(backend, "MODEL.RPN.POST_NMS_TOPK_TEST", 1).eval()
    images, features, _ = make_inputs(backend)
    for level in features.values():
        level.zero_()
    # One cell of p3 fires; its second anchor moves right by its own width.
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


def test_losses_are_sums_over_drawn_anchors_by_images_and_batch_size(backend):
    rpn = make_rpn(backend)
    _, features, truths = make_inputs(backend, boxes=(4, 2))
    anchors = rpn.anchor_generator([features[name] for name in LEVELS])
    labels, matched = rpn.label_and_sample_anchors(anchors, truths)
    count = sum(len(level) for level in anchors)
    logits, deltas = torch.randn(2, count), torch.randn(2, count, 4)
    split = [len(level) for level in anchors]
    with backend.get("utils.events").EventStorage() as storage:
        losses = rpn.losses(anchors, logits.split(split, 1), labels, deltas.split(split, 1), matched)
    cross_entropy = regression = 0.0
    boxes = backend.get("structures").Boxes.cat(anchors).tensor
    for image in range(2):
        drawn, positive = labels[image] >= 0, labels[image] == 1
        cross_entropy += F.binary_cross_entropy_with_logits(logits[image][drawn], labels[image][drawn].float(), reduction="sum")
        target = rpn.box2box_transform.get_deltas(boxes[positive], matched[image][positive])
        regression += (deltas[image][positive] - target).abs().sum()
    assert_close(losses["loss_rpn_cls"], cross_entropy / 64)
    assert_close(losses["loss_rpn_loc"], regression / 64)
    assert storage.latest()["rpn/num_pos_anchors"][0] == sum((each == 1).sum().item() for each in labels) / 2
    assert storage.latest()["rpn/num_neg_anchors"][0] == sum((each == 0).sum().item() for each in labels) / 2


def test_drawn_anchors_fill_the_batch_and_positives_overlap_their_box(backend):
    rpn = make_rpn(backend)
    _, features, truths = make_inputs(backend)
    anchors = rpn.anchor_generator([features[name] for name in LEVELS])
    labels, matched = rpn.label_and_sample_anchors(anchors, truths)
    structures = backend.get("structures")
    boxes = structures.Boxes.cat(anchors)
    assert [(each >= 0).sum() for each in labels] == [32, 32]
    positive = labels[0] == 1
    assert positive.any() and positive.sum() <= 16
    overlaps = structures.pairwise_iou(structures.Boxes(matched[0][positive]), boxes[positive]).diagonal()
    assert (overlaps > 0.1).all()
    # The second image has no ground truth: every anchor is background.
    assert not (labels[1] == 1).any() and matched[1].shape == boxes.tensor.shape


def test_anchors_beyond_the_border_are_not_trained_on_with_a_threshold(backend):
    rpn = make_rpn(backend, "MODEL.RPN.BOUNDARY_THRESH", 0, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10_000)
    _, features, truths = make_inputs(backend)
    anchors = rpn.anchor_generator([features[name] for name in LEVELS])
    labels, _ = rpn.label_and_sample_anchors(anchors, truths)
    inside = backend.get("structures").Boxes.cat(anchors).inside_box(SIZE)
    assert (labels[1] >= 0).tolist() == inside.tolist()


def test_loss_weights_multiply(backend):
    options = ["MODEL.RPN.LOSS_WEIGHT", 0.5, "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 3.0]
    _, losses, _ = run(backend, make_rpn(backend))
    _, weighted, _ = run(backend, make_rpn(backend, *options))
    assert_close(weighted["loss_rpn_cls"], losses["loss_rpn_cls"] * 0.5)
    assert_close(weighted["loss_rpn_loc"], losses["loss_rpn_loc"] * 1.5)


def test_images_without_ground_truth_train_the_objectness_only(backend):
    rpn = make_rpn(backend)
    _, losses, _ = run(backend, rpn, inputs=make_inputs(backend, boxes=(0, 0)))
    assert losses["loss_rpn_loc"] == 0 and losses["loss_rpn_cls"] > 0
    sum(losses.values()).backward()
    assert (rpn.rpn_head.anchor_deltas.weight.grad == 0).all() and rpn.rpn_head.objectness_logits.weight.grad.any()


def test_training_stops_when_predictions_are_not_finite(backend):
    rpn = make_rpn(backend)
    rpn.rpn_head.objectness_logits.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError):
        run(backend, rpn)


def test_training_needs_ground_truth(backend):
    images, features, _ = make_inputs(backend)
    with pytest.raises(AssertionError):
        make_rpn(backend).train()(images, features, None)


def test_maps_of_different_channels_or_anchors_are_refused(backend):
    cfg, spec = backend.get("config").get_cfg(), backend.get("layers").ShapeSpec
    build = backend.get("modeling.proposal_generator").build_rpn_head
    with pytest.raises(AssertionError):
        build(cfg, [spec(channels=8, stride=4), spec(channels=16, stride=8)])
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16, 32]]
    with pytest.raises(AssertionError):
        build(cfg, [spec(channels=8, stride=4), spec(channels=8, stride=8)])
    cfg.MODEL.RPN.CONV_DIMS = [0, 4]
    with pytest.raises((ValueError, AssertionError)):
        build(cfg, [spec(channels=8, stride=4)])


def test_precomputed_proposals_need_no_generator(backend):
    assert make_rpn(backend, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals") is None
    with pytest.raises(KeyError):
        make_rpn(backend, "MODEL.PROPOSAL_GENERATOR.NAME", "NoSuchGenerator")


def test_explicit_arguments_override_the_config(backend):
    module = backend.get("modeling.proposal_generator")
    cfg, shapes = backend.get("config").get_cfg(), {"res4": backend.get("layers").ShapeSpec(channels=8, stride=16)}
    assert module.RPN(cfg, shapes, loss_weight=2.0).loss_weight == {"loss_rpn_cls": 2.0, "loss_rpn_loc": 2.0}
    assert module.RPN(cfg, shapes).nms_thresh == 0.7


VARIANTS = {
    "default": [],
    "two convolutions": ["MODEL.RPN.CONV_DIMS", [-1, 6]],
    "smooth L1": ["MODEL.RPN.SMOOTH_L1_BETA", 0.1],
    "giou": ["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"],
    "ciou": ["MODEL.RPN.BBOX_REG_LOSS_TYPE", "ciou"],
    "boundary": ["MODEL.RPN.BOUNDARY_THRESH", 0],
    "limits": ["MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 6],
    "weights": ["MODEL.RPN.LOSS_WEIGHT", 0.5, "MODEL.RPN.BBOX_REG_WEIGHTS", (2.0, 2.0, 1.0, 1.0), "MODEL.ANCHOR_GENERATOR.OFFSET", 0.5],
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_one_seed_gives_the_same_weights_losses_gradients_and_proposals_on_both_backends(subset, real, options):
    rpns, outcomes = [], []
    for each in (subset, real):
        rpns.append(make_rpn(each, *options))
        outcomes.append(run(each, rpns[-1]))
        sum(outcomes[-1][1].values()).backward()
    for (name, mine), (other_name, other) in zip(*(rpn.named_parameters() for rpn in rpns), strict=True):
        assert name == other_name and torch.equal(mine, other)
        assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-6)
    (ours, our_losses, our_scalars), (theirs, their_losses, their_scalars) = outcomes
    assert_close(our_losses, their_losses, rtol=0, atol=1e-5)
    assert our_scalars == their_scalars
    compare(ours, theirs)


def test_both_backends_propose_the_same_in_inference(subset, real):
    compare(*(run(each, make_rpn(each), training=False)[0] for each in (subset, real)))


def compare(ours, theirs):
    """The same proposals in the same order."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.image_size == other.image_size and len(mine) > 0
        assert_close(mine.proposal_boxes.tensor, other.proposal_boxes.tensor, rtol=0, atol=1e-5)
        assert_close(mine.objectness_logits, other.objectness_logits, rtol=0, atol=1e-5)


def test_both_backends_draw_the_same_anchors(subset, real):
    drawn = []
    for each in (subset, real):
        rpn = make_rpn(each)
        _, features, truths = make_inputs(each, boxes=(4, 6))
        torch.manual_seed(5)
        drawn.append(rpn.label_and_sample_anchors(rpn.anchor_generator([features[name] for name in LEVELS]), truths)[0])
    assert torch.equal(*(torch.stack(labels) for labels in drawn))
