"""PixPro's losses and pixel propagation: oracle, definitions, precision, errors."""

import math

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses import pixpro_instance_loss, pixpro_loss, propagate_pixels
from detcon_d2.losses.pixpro import positive_cells
from tests.losses.cases import PRECISIONS, assert_close, read_methods

# The released code adds 1e-6 to the number of pairs in float32.
LOSS_PRECISIONS = [(torch.float64, 1e-7), PRECISIONS[1]]


@pytest.mark.parametrize(("dtype", "tolerance"), LOSS_PRECISIONS)
def test_loss_gradient_and_positives_equal_the_released_code(one_process_cases, dtype, tolerance):
    for case in one_process_cases("pixpro_loss"):
        query, key = case.tensor("q", dtype, grad=True), case.tensor("k", dtype, grad=True)
        boxes, pos_ratio = (case.tensor("coord_q", dtype), case.tensor("coord_k", dtype)), float(case["pos_ratio"])
        loss = pixpro_loss(query, key, *boxes, pos_ratio=pos_ratio)
        loss.backward()
        assert torch.equal(positive_cells(*boxes, tuple(query.shape[2:]), pos_ratio), case.tensor("positives"))
        assert_close(loss, case["loss"], tolerance)
        assert_close(query.grad, case["grad_q"], tolerance)
        assert key.grad is None


def transform_of(parameters, prefix=""):
    """The transform of a case: a 1x1 convolution, or the identity where there are no parameters."""
    if f"{prefix}weight" not in parameters:
        return lambda x: x
    return lambda x: F.conv2d(x, parameters[f"{prefix}weight"], parameters[f"{prefix}bias"])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_propagation_and_its_gradients_equal_the_released_code(one_process_cases, dtype, tolerance):
    for case in one_process_cases("pixpro_ppm"):
        x, parameters = case.tensor("x", dtype, grad=True), case.part("param")
        leaves = {name: parameters.tensor(name, dtype, grad=True) for name in parameters}
        out = propagate_pixels(x, transform_of(leaves), power=float(case["p"]))
        assert_close(out, case["out"], tolerance)
        normalised = F.normalize(out, dim=1)
        assert_close(normalised, case["out_normalised"], tolerance)
        (normalised * case.tensor("weights_of_sum", dtype)).sum().backward()
        assert_close(x.grad, case["grad_x"], tolerance)
        for name, leaf in leaves.items():
            assert_close(leaf.grad, case[f"grad/{name}"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_instance_loss_and_gradient_equal_the_released_code(one_process_cases, dtype, tolerance):
    for case in one_process_cases("pixpro_instance"):
        prediction, target = case.tensor("prediction", dtype, grad=True), case.tensor("target", dtype, grad=True)
        loss = pixpro_instance_loss(prediction, target)
        loss.backward()
        assert_close(loss, case["loss"], tolerance)
        assert_close(prediction.grad, case["grad_prediction"], tolerance)
        assert target.grad is None


def project(image, parameters, suffix=""):
    """The networks of the oracle's steps: a 1x1 convolution as encoder, then the projector, with BatchNorm's batch statistics."""
    x = F.conv2d(image, parameters[f"encoder{suffix}.c.weight"])
    names = (f"projector{suffix}.{layer}" for layer in ("linear1", "bn1", "linear2"))
    first, norm, last = ((parameters[f"{name}.weight"], parameters[f"{name}.bias"]) for name in names)
    x = F.batch_norm(F.conv2d(x, *first), None, None, *norm, training=True).relu()
    return F.conv2d(x, *last)


@pytest.mark.parametrize("name", ["ppm_conv", "ppm_identity"])
def test_steps_of_both_directions_equal_the_released_code(shared_dir, name):
    case = read_methods(shared_dir / "oracles" / "methods_oracle.npz")["pixpro_step"][name]
    online = case.part("param_0")
    for step in range(int(case["steps"])):
        found = case.part(f"step{step}")
        after = found.part("state_after_sgd")
        trained = {leaf: online.tensor(leaf, grad=True) for leaf in found.part("grad")}
        # The target networks move before the keys are computed.
        target = {leaf: after.tensor(leaf) for leaf in after if "_k." in leaf}
        images, boxes = ([found.tensor(f"{kind}{view}") for view in (1, 2)] for kind in ("im", "coord"))
        maps = [propagate_pixels(project(x, trained), transform_of(trained, "value_transform."), power=float(case["p"])) for x in images]
        (query1, query2), (key1, key2) = (
            [F.normalize(x, dim=1) for x in views] for views in (maps, [project(x, target, "_k") for x in images])
        )
        loss = pixpro_loss(query1, key2, *boxes) + pixpro_loss(query2, key1, *boxes[::-1])
        loss.backward()
        assert_close(loss, found["loss"], 1e-7)
        for leaf, x in trained.items():
            assert_close(x.grad, found[f"grad/{leaf}"], 1e-7)
        online = after


def random_maps(n=2, c=3, h=3, w=4, dtype=torch.float64):
    return [F.normalize(torch.randn(n, c, h, w, dtype=dtype), dim=1) for _ in range(2)]


def random_boxes(n=2, dtype=torch.float64):
    """Boxes that overlap; the first of the second view is flipped."""
    low, high = 0.3 * torch.rand(2, n, 2, dtype=dtype), 0.7 + 0.3 * torch.rand(2, n, 2, dtype=dtype)
    boxes = torch.cat([low, high], dim=2)
    boxes[1, 0] = boxes[1, 0, [2, 1, 0, 3]]
    return boxes.unbind(0)


def reference_positives(box_q, box_k, h, w, pos_ratio):
    """The definition for one image, cell by cell, in Python floats."""
    cells = []
    for x1, y1, x2, y2 in (box_q.tolist(), box_k.tolist()):
        width, height = (x2 - x1) / w, (y2 - y1) / h
        centers = [(x1 + (column + 0.5) * width, y1 + (row + 0.5) * height) for row in range(h) for column in range(w)]
        cells.append((centers, math.hypot(width, height)))
    (centers_q, diagonal_q), (centers_k, diagonal_k) = cells
    return [[math.dist(p, q) / max(diagonal_q, diagonal_k) < pos_ratio for q in centers_k] for p in centers_q]


@pytest.mark.parametrize("pos_ratio", [0.3, 0.7, 1.5])
def test_positives_and_loss_are_their_definition_cell_by_cell(pos_ratio):
    (query, key), (coord_q, coord_k) = random_maps(), random_boxes()
    found = positive_cells(coord_q, coord_k, (3, 4), pos_ratio)
    total = 0.0
    for n in range(2):
        expected = reference_positives(coord_q[n], coord_k[n], 3, 4, pos_ratio)
        assert found[n].tolist() == expected
        pairs = [(i, j) for i in range(12) for j in range(12) if expected[i][j]]
        total += sum(query[n].flatten(1)[:, i] @ key[n].flatten(1)[:, j] for i, j in pairs) / (len(pairs) + 1e-6)
    assert found.any()
    torch.testing.assert_close(pixpro_loss(query, key, coord_q, coord_k, pos_ratio=pos_ratio), -2 * total / 2)


def test_the_same_square_crop_matches_each_cell_with_itself_and_its_flip_with_the_mirrored_cell():
    box, flipped = torch.tensor([[0.2, 0.2, 0.8, 0.8]]), torch.tensor([[0.8, 0.2, 0.2, 0.8]])
    cells = torch.arange(49).view(7, 7)
    for other, expected in ((box, cells), (flipped, cells.flip(1))):
        positive = positive_cells(box, other, (7, 7), 0.7)[0]
        assert positive.sum() == 49
        assert torch.equal(positive.int().argmax(1), expected.flatten())


def test_images_without_overlap_contribute_zero_and_count_in_the_mean():
    query, key = random_maps()
    query.requires_grad_()
    near, far = torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2), torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.9, 0.9, 1.0, 1.0]])
    loss = pixpro_loss(query, key, near, far)
    loss.backward()
    torch.testing.assert_close(loss, pixpro_loss(query[:1], key[:1], near[:1], far[:1]) / 2)
    assert query.grad[0].any() and not query.grad[1].any()
    assert pixpro_loss(query[1:], key[1:], near[1:], far[1:]) == 0


def test_gradients_are_the_derivatives():
    (query, key), boxes = random_maps(), random_boxes()
    assert torch.autograd.gradcheck(lambda x: pixpro_loss(x, key, *boxes), query.requires_grad_())
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for power in (0.5, 2.0):
        assert torch.autograd.gradcheck(lambda x, power=power: propagate_pixels(x, lambda y: y, power=power), x)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_propagation_is_its_definition_cell_by_cell(power):
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    cells = x[0].flatten(1).T
    expected = []
    for i in range(4):
        cosines = [max(float(torch.cosine_similarity(cells[i], cells[j], dim=0)), 0.0) for j in range(4)]
        weights = [(cosine + (1e-6 if power < 1 else 0)) ** power for cosine in cosines]
        expected.append(sum(weight * F.normalize(2 * cell + 1, dim=0) for weight, cell in zip(weights, cells)))
    found = propagate_pixels(x, lambda y: 2 * y + 1, power=power)
    torch.testing.assert_close(found[0].flatten(1).T, torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    (query, key), boxes = [x.to(dtype) for x in random_maps()], random_boxes(dtype=torch.float32)
    weight = torch.randn(3, 3, 1, 1)
    query.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = propagate_pixels(query, lambda x: F.conv2d(x, weight))
        loss = pixpro_loss(F.normalize(out, dim=1), key, *boxes)
        plain, instance = pixpro_loss(query, key, *boxes), pixpro_instance_loss(query[..., 0, 0], key[..., 0, 0])
    (loss + instance).backward()
    assert out.dtype == loss.dtype == instance.dtype == torch.float32
    assert loss.isfinite() and query.grad.isfinite().all()
    assert_close(plain, pixpro_loss(query.double(), key.double(), *boxes).detach().numpy(), 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(2, 3, 4, 4)}, r"key has shape \(2, 3, 4, 4\); expected \(2, 3, 3, 4\), the shape of query"),
        ({"query": torch.zeros(2, 3, 4)}, r"query has shape \(2, 3, 4\); expected \(N, C, h, w\)"),
        ({"coord_k": torch.zeros(3, 4)}, r"coord_k has shape \(3, 4\); expected \(2, 4\)"),
        ({"coord_q": torch.zeros(3, 4), "coord_k": torch.zeros(3, 4)}, r"coord_q has shape \(3, 4\); expected \(2, 4\), one box for each"),
        ({"pos_ratio": 0.0}, "pos_ratio is 0.0; expected a number > 0"),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, message):
    inputs = dict(zip(("query", "key", "coord_q", "coord_k"), (*random_maps(), *random_boxes()))) | change
    with pytest.raises(ValueError, match=message):
        pixpro_loss(**inputs)


def test_a_power_of_zero_is_refused():
    with pytest.raises(ValueError, match="power is 0; expected a number > 0"):
        propagate_pixels(random_maps()[0], lambda x: x, power=0)
