"""The mask head on every backend present, and alike on both."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

SIZE = (40, 48)
VARIANTS = {
    "plain": {"conv_dims": [16, 16, 24]},
    "deconv_only": {"conv_dims": [16]},
    "group_norm": {"conv_dims": [32, 32], "conv_norm": "GN"},
    "batch_norm": {"conv_dims": [16, 16], "conv_norm": "BN"},
    "naive_sync_bn": {"conv_dims": [16, 16], "conv_norm": "naiveSyncBN_N"},
    "agnostic": {"conv_dims": [16, 16], "num_classes": 1},
}


def functions(backend):
    return backend.get("modeling.roi_heads.mask_head")


def make(backend, seed=0, **options):
    torch.manual_seed(seed)
    shape = backend.get("layers").ShapeSpec(channels=6, height=5, width=5)
    return functions(backend).MaskRCNNConvUpsampleHead(shape, **({"num_classes": 3} | options))


def instances(backend, *classes):
    """An image for each list of classes, each object's mask the left half of its proposal."""
    structures, made = backend.get("structures"), []
    for labels in classes:
        boxes = torch.tensor([[8.0 * i, 4.0, 8.0 * i + 16.0, 36.0] for i in range(len(labels))]).reshape(-1, 4)
        masks = torch.zeros(len(labels), *SIZE, dtype=torch.bool)
        for i in range(len(labels)):
            masks[i, 4:36, 8 * i : 8 * i + 8] = True
        fields = {"proposal_boxes": structures.Boxes(boxes), "gt_classes": torch.tensor(labels, dtype=torch.int64)}
        made.append(structures.Instances(SIZE, **fields, gt_masks=structures.BitMasks(masks)))
    return made


def logits(count, classes=3, side=4):
    return torch.randn(count, classes, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()


def loss_and_scalars(backend, predicted, given):
    with backend.get("utils.events").EventStorage() as storage:
        loss = functions(backend).mask_rcnn_loss(predicted, given)
    return loss, {name: value for name, (value, _) in storage.latest().items()}


LEFT_HALF = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4, 1)


@pytest.mark.parametrize("agnostic", [False, True])
def test_the_loss_is_cross_entropy_of_the_own_classes_logits(backend, agnostic):
    predicted = logits(3, 1 if agnostic else 3)
    loss, _ = loss_and_scalars(backend, predicted, instances(backend, [2, 0], [], [1]))
    own = predicted[:, 0] if agnostic else predicted[[0, 1, 2], [2, 0, 1]]
    assert_close(loss, F.binary_cross_entropy_with_logits(own, LEFT_HALF.expand(3, 4, 4)))


def test_only_the_own_class_learns(backend):
    predicted = logits(2)
    loss_and_scalars(backend, predicted, instances(backend, [2, 0]))[0].backward()
    assert predicted.grad.flatten(2).ne(0).any(dim=2).tolist() == [[False, False, True], [True, False, False]]


def test_scalars_count_wrong_pixels(backend):
    # Of 16 pixels 8 are object; two of these and one of the others are wrong.
    predicted = (LEFT_HALF * 2 - 1)[None, None].repeat(1, 3, 1, 1)
    predicted[0, :, 0, :2] = -1.0
    predicted[0, :, 0, 3] = 1.0
    _, scalars = loss_and_scalars(backend, predicted, instances(backend, [1]))
    assert scalars["mask_rcnn/accuracy"] == pytest.approx(13 / 16)
    assert scalars["mask_rcnn/false_negative"] == pytest.approx(2 / 8)
    assert scalars["mask_rcnn/false_positive"] == pytest.approx(1 / 8)


def test_without_foreground_the_loss_is_zero_and_differentiable(backend):
    for given in (instances(backend, []), instances(backend, [], [])):
        predicted = logits(0)
        loss, scalars = loss_and_scalars(backend, predicted, given)
        loss.backward()
        assert loss == 0 and not scalars and predicted.grad.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_inference_gives_each_instance_the_probabilities_of_its_class(backend, agnostic):
    predicted = logits(4, 1 if agnostic else 3).detach()
    found = [backend.get("structures").Instances(SIZE, pred_classes=torch.tensor(one, dtype=torch.int64)) for one in ([2, 0, 1], [], [2])]
    functions(backend).mask_rcnn_inference(predicted, found)
    classes = [0] * 4 if agnostic else [2, 0, 1, 2]
    assert [tuple(one.pred_masks.shape) for one in found] == [(3, 1, 4, 4), (0, 1, 4, 4), (1, 1, 4, 4)]
    assert_close(torch.cat([one.pred_masks for one in found])[:, 0], predicted[range(4), classes].sigmoid())


def test_layers_have_their_public_names(backend):
    head = make(backend, **VARIANTS["plain"])
    assert [name for name, _ in head.named_children()] == ["mask_fcn1", "mask_fcn2", "deconv", "deconv_relu", "predictor"]
    assert head.deconv.weight.shape == (16, 24, 2, 2) and head.predictor.weight.shape == (3, 24, 1, 1)
    assert list(dict(make(backend, **VARIANTS["batch_norm"]).mask_fcn1.named_parameters())) == ["weight", "norm.weight", "norm.bias"]


def test_layers_start_as_msra_and_the_predictor_near_zero(backend):
    head = make(backend, conv_dims=[256, 256], num_classes=80)
    assert head.mask_fcn1.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.05)
    assert head.deconv.weight.std().item() == pytest.approx((2 / (4 * 256)) ** 0.5, rel=0.05)
    assert head.predictor.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert not any(getattr(head, name).bias.any() for name in ("mask_fcn1", "deconv", "predictor"))


def pooled(count):
    return torch.randn(count, 6, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_masks_have_twice_the_side_of_the_pooled_map(backend, variant):
    head = make(backend, **VARIANTS[variant]).eval()
    found = [backend.get("structures").Instances(SIZE, pred_classes=torch.zeros(count, dtype=torch.int64)) for count in (3, 0)]
    assert head(pooled(3), found) is found
    assert [tuple(one.pred_masks.shape) for one in found] == [(3, 1, 10, 10), (0, 1, 10, 10)]


def test_training_returns_the_loss(backend):
    head = make(backend, **VARIANTS["plain"])
    with backend.get("utils.events").EventStorage():
        losses = head(pooled(2), instances(backend, [0, 1]))
        nothing = head(pooled(0), instances(backend, []))
    assert list(losses) == list(nothing) == ["loss_mask"]
    # Logits start near zero.
    assert losses["loss_mask"].item() == pytest.approx(0.693, abs=0.02) and nothing["loss_mask"] == 0


def test_a_head_without_layers_is_refused(backend):
    with pytest.raises(AssertionError):
        make(backend, conv_dims=[])


@pytest.mark.parametrize(("agnostic", "channels"), [(False, 7), (True, 1)])
def test_the_config_is_read(backend, agnostic, channels):
    cfg = backend.get("config").get_cfg()
    options = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 2, "CONV_DIM": 8, "NORM": "BN", "CLS_AGNOSTIC_MASK": agnostic}
    for key, value in options.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    head = backend.get("modeling").build_mask_head(cfg, backend.get("layers").ShapeSpec(channels=6, height=5, width=5))
    assert head.predictor.weight.shape == (channels, 8, 1, 1)
    assert isinstance(head.mask_fcn2.norm, torch.nn.BatchNorm2d) and not hasattr(head, "mask_fcn3")
    cfg.MODEL.ROI_MASK_HEAD.NAME = "NoSuchHead"
    with pytest.raises(KeyError, match="NoSuchHead"):
        backend.get("modeling").build_mask_head(cfg, backend.get("layers").ShapeSpec(channels=6, height=5, width=5))


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_backends_give_the_same_losses_scalars_gradients_and_masks(subset, real, variant):
    ours, theirs = (make(one, **VARIANTS[variant]) for one in (subset, real))
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.state_dict().items()]
    with torch.no_grad():
        theirs.predictor.weight.normal_(std=0.5)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for backend, head in ((subset, ours), (real, theirs)):
        with backend.get("utils.events").EventStorage() as storage:
            loss = head.train()(pooled(5), instances(backend, [2, 0], [1, 1, 2]))["loss_mask"]
        loss.backward()
        found = [backend.get("structures").Instances(SIZE, pred_classes=torch.tensor([2, 0, 1, 1, 2]))]
        head.eval()(pooled(5), found)
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        results.append((loss, {k: v for k, (v, _) in storage.latest().items()}, gradients, found[0].pred_masks))
    assert list(results[0][1]) == list(results[1][1])
    for our, their in zip(*results):
        assert_close(our, their, atol=1e-6, rtol=1e-4)
