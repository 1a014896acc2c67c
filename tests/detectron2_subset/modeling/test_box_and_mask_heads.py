"""The box head and the mask head, on both backends, and alike."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

SIZE = (40, 48)
BOX_HEADS = {
    "2fc": {"conv_dims": [], "fc_dims": [24, 20]},
    "4conv1fc": {"conv_dims": [32] * 4, "fc_dims": [24], "conv_norm": "BN"},
    "group_norm": {"conv_dims": [32, 64], "fc_dims": [24], "conv_norm": "GN"},
    "naive_sync_bn": {"conv_dims": [32], "fc_dims": [24], "conv_norm": "naiveSyncBN_N"},
    "conv_only": {"conv_dims": [16], "fc_dims": []},
}
MASK_HEADS = {
    "plain": {"conv_dims": [16, 16, 24]},
    "deconv_only": {"conv_dims": [16]},
    "group_norm": {"conv_dims": [32, 32], "conv_norm": "GN"},
    "naive_sync_bn": {"conv_dims": [16, 16], "conv_norm": "naiveSyncBN_N"},
    "agnostic": {"conv_dims": [16, 16], "num_classes": 1},
}


def shape(backend):
    return backend.get("layers").ShapeSpec(channels=6, height=5, width=5)


def box_head(backend, **options):
    torch.manual_seed(0)
    return backend.get("modeling.roi_heads").FastRCNNConvFCHead(shape(backend), **options)


def mask_head(backend, **options):
    torch.manual_seed(0)
    return backend.get("modeling.roi_heads.mask_head").MaskRCNNConvUpsampleHead(shape(backend), **({"num_classes": 3} | options))


def pooled(count=4):
    return torch.randn(count, 6, 5, 5, generator=torch.Generator().manual_seed(0))


def test_two_fc_layers_are_two_affine_maps_with_relu(backend):
    head = box_head(backend, **BOX_HEADS["2fc"])
    assert [name for name, _ in head.named_children()] == ["flatten", "fc1", "fc_relu1", "fc2", "fc_relu2"]
    hidden = torch.relu(pooled().flatten(1) @ head.fc1.weight.T + head.fc1.bias)
    assert_close(head(pooled()), torch.relu(hidden @ head.fc2.weight.T + head.fc2.bias))


def test_box_heads_start_as_msra_and_xavier_and_have_a_layer(backend):
    head = box_head(backend, conv_dims=[256], fc_dims=[512])
    assert head.conv1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.03)
    limit = (3 / (256 * 25)) ** 0.5
    assert head.fc1.weight.abs().max() <= limit and head.fc1.weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.03)
    assert not head.conv1.bias.any() and not head.fc1.bias.any()
    with pytest.raises(AssertionError):
        box_head(backend, conv_dims=[], fc_dims=[])


def test_the_config_describes_both_heads(backend):
    cfg, modeling = backend.get("config").get_cfg(), backend.get("modeling")
    box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    box.merge_from_list(["NAME", "FastRCNNConvFCHead", "NUM_CONV", 4, "CONV_DIM", 8, "NUM_FC", 1, "FC_DIM", 12, "NORM", "BN"])
    mask.merge_from_list(["NAME", "MaskRCNNConvUpsampleHead", "NUM_CONV", 2, "CONV_DIM", 8, "NORM", "BN"])
    head = modeling.build_box_head(cfg, shape(backend))
    assert [tuple(getattr(head, f"conv{i}").weight.shape) for i in (1, 2, 3, 4)] == [(8, 6, 3, 3)] + [(8, 8, 3, 3)] * 3
    assert head.fc1.weight.shape == (12, 200) and isinstance(head.conv4.norm, nn.BatchNorm2d) and head.conv1.bias is None
    for agnostic, channels in ((False, 80), (True, 1)):
        mask.CLS_AGNOSTIC_MASK = agnostic
        head = modeling.build_mask_head(cfg, shape(backend))
        assert head.predictor.weight.shape == (channels, 8, 1, 1)
        assert isinstance(head.mask_fcn2.norm, nn.BatchNorm2d) and not hasattr(head, "mask_fcn3")
    box.NAME = mask.NAME = "NoSuchHead"
    for build in (modeling.build_box_head, modeling.build_mask_head):
        with pytest.raises(KeyError, match="NoSuchHead"):
            build(cfg, shape(backend))


@pytest.mark.parametrize("variant", BOX_HEADS)
def test_both_backends_compute_the_same_box_features(subset, real, variant):
    ours, theirs = (box_head(one, **BOX_HEADS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    ours.load_state_dict(theirs.state_dict())
    out = ours(pooled())
    assert_close(out, theirs(pooled()), atol=1e-6, rtol=1e-5)
    sides = {k: v for k, v in vars(ours.output_shape).items() if v}
    assert sides == {k: v for k, v in vars(theirs.output_shape).items() if v} and tuple(sides.values()) == out.shape[1:]
    assert ours.eval()(pooled(0)).shape == (0, *out.shape[1:])


def instances(backend, *classes):
    """An image for each list of classes; the mask of each object is the left half of its proposal."""
    structures, made = backend.get("structures"), []
    for labels in classes:
        boxes = torch.tensor([[8.0 * i, 4.0, 8.0 * i + 16.0, 36.0] for i in range(len(labels))]).reshape(-1, 4)
        masks = torch.zeros(len(labels), *SIZE, dtype=torch.bool)
        for i in range(len(labels)):
            masks[i, 4:36, 8 * i : 8 * i + 8] = True
        fields = {"proposal_boxes": structures.Boxes(boxes), "gt_classes": torch.tensor(labels, dtype=torch.int64)}
        made.append(structures.Instances(SIZE, **fields, gt_masks=structures.BitMasks(masks)))
    return made


def predicted(backend, *classes):
    """An image for each list of predicted classes."""
    return [backend.get("structures").Instances(SIZE, pred_classes=torch.tensor(one, dtype=torch.int64)) for one in classes]


def logits(count, classes=3):
    return torch.randn(count, classes, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()


def loss_and_scalars(backend, values, given):
    with backend.get("utils.events").EventStorage() as storage:
        loss = backend.get("modeling.roi_heads.mask_head").mask_rcnn_loss(values, given)
    return loss, {name: value for name, (value, _) in storage.latest().items()}


LEFT_HALF = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4, 1)


@pytest.mark.parametrize("agnostic", [False, True])
def test_the_mask_loss_is_cross_entropy_of_the_logits_of_the_class(backend, agnostic):
    values = logits(3, 1 if agnostic else 3)
    loss, _ = loss_and_scalars(backend, values, instances(backend, [2, 0], [], [1]))
    own = values[:, 0] if agnostic else values[[0, 1, 2], [2, 0, 1]]
    assert_close(loss, F.binary_cross_entropy_with_logits(own, LEFT_HALF.expand(3, 4, 4)))
    loss.backward()
    if not agnostic:
        learning = values.grad.flatten(2).ne(0).any(dim=2)
        assert learning.nonzero().tolist() == [[0, 2], [1, 0], [2, 1]]


def test_scalars_count_wrong_pixels(backend):
    # Of 16 pixels 8 are object pixels; two of these and one of the others are wrong.
    values = (LEFT_HALF * 2 - 1)[None, None].repeat(1, 3, 1, 1)
    values[0, :, 0, :2] = -1.0
    values[0, :, 0, 3] = 1.0
    _, scalars = loss_and_scalars(backend, values, instances(backend, [1]))
    expected = {"mask_rcnn/accuracy": 13 / 16, "mask_rcnn/false_negative": 2 / 8, "mask_rcnn/false_positive": 1 / 8}
    assert scalars == pytest.approx(expected)


def test_without_foreground_the_mask_loss_is_zero_and_differentiable(backend):
    for given in (instances(backend, []), instances(backend, [], [])):
        values = logits(0)
        loss, scalars = loss_and_scalars(backend, values, given)
        loss.backward()
        assert loss == 0 and not scalars and values.grad.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_inference_gives_each_instance_the_probabilities_of_its_class(backend, agnostic):
    values, found = logits(4, 1 if agnostic else 3).detach(), predicted(backend, [2, 0, 1], [], [2])
    backend.get("modeling.roi_heads.mask_head").mask_rcnn_inference(values, found)
    classes = [0] * 4 if agnostic else [2, 0, 1, 2]
    assert [tuple(one.pred_masks.shape) for one in found] == [(3, 1, 4, 4), (0, 1, 4, 4), (1, 1, 4, 4)]
    assert_close(torch.cat([one.pred_masks for one in found])[:, 0], values[range(4), classes].sigmoid())


def test_mask_heads_start_as_msra_with_a_small_predictor_and_have_a_layer(backend):
    head = mask_head(backend, conv_dims=[256, 256], num_classes=80)
    assert [name for name, _ in head.named_children()] == ["mask_fcn1", "deconv", "deconv_relu", "predictor"]
    assert head.mask_fcn1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.05)
    assert head.deconv.weight.std().item() == pytest.approx((2 / (4 * 256)) ** 0.5, rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not any(getattr(head, name).bias.any() for name in ("mask_fcn1", "deconv", "predictor"))
    with pytest.raises(AssertionError):
        mask_head(backend, conv_dims=[])


@pytest.mark.parametrize("variant", MASK_HEADS)
def test_both_backends_give_the_same_mask_losses_scalars_gradients_and_masks(subset, real, variant):
    ours, theirs = (mask_head(one, **MASK_HEADS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    nn.init.normal_(theirs.predictor.weight, std=0.5)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for backend, head in ((subset, ours), (real, theirs)):
        with backend.get("utils.events").EventStorage() as storage:
            loss = head.train()(pooled(5), instances(backend, [2, 0], [1, 1, 2]))["loss_mask"]
            nothing = head(pooled(0), instances(backend, []))["loss_mask"] if "norm" not in variant else loss.detach() * 0
        loss.backward()
        found = predicted(backend, [2, 0, 1], [], [1, 2])
        assert head.eval()(pooled(5), found) is found and nothing == 0
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        results.append((loss, {k: v for k, (v, _) in storage.latest().items()}, gradients, [one.pred_masks for one in found]))
    assert list(results[0][1]) == list(results[1][1]) and results[0][3][0].shape == (3, 1, 10, 10)
    assert_close(results[0], results[1], atol=1e-6, rtol=1e-4)
