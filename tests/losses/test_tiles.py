"""The loss in tiles equals the loss of the dense matrix for any tile, and computes and stores no more than it needs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from detcon_d2.losses import detcon_loss, tiles
from tests.modeling.oracles import relative_error

NONE = 65535
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
TILES = [None, (1, 1), (3, 2), (7, 1), (5, 4), (1000, 1000)]


def dense_loss(pred1, pred2, target1, target2, ids1, ids2, *, temperature=0.1, local_negatives=True):
    """The definition over the whole (N, M, 2, N, M) logits of each view, derived by autograd."""
    pred1, pred2, target1, target2 = (
        x * x.square().sum(-1, keepdim=True).clamp(min=1e-12).rsqrt() for x in (pred1, pred2, target1, target2)
    )
    n, m = ids1.shape
    same_image = torch.eye(n, dtype=torch.bool)[:, None, :, None]

    def half(pred, other, own, ids, other_ids):
        logits = torch.einsum("nmd,vkld->nmvkl", pred, torch.stack([other, own])) / temperature
        equal = torch.stack([ids[:, :, None, None] == x for x in (other_ids, ids)], 2) & same_image.unsqueeze(2)
        positive, same_own = equal[:, :, 0] & (ids != NONE)[:, :, None, None], equal[:, :, 1]
        removed = (torch.stack([other_ids, ids]) == NONE).expand(n, m, 2, n, m).clone()
        removed[:, :, 0] |= same_image & ~positive if not local_negatives else False
        removed[:, :, 1] |= same_own if local_negatives else same_image
        count = positive.sum((2, 3))
        # Rows without a positive keep all logits: an empty logsumexp has a NaN gradient.
        log_sum = logits.masked_fill(removed & (count > 0)[:, :, None, None, None], -torch.inf).flatten(2).logsumexp(2)
        mean_positive = (logits[:, :, 0] * positive).sum((2, 3)) / count.clamp(min=1)
        return ((count > 0) / same_own.sum((2, 3)).double() * (log_sum - mean_positive)).sum() / (n * m)

    return half(pred1, target2, target1, ids1, ids2) + half(pred2, target1, target2, ids2, ids1)


def random_problem(n=5, m=4, d=6, num_ids=4, seed=0, dtype=torch.float64):
    """Embeddings, and ids with duplicates, rows without a region and rows without a positive."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(n, m, d, generator=generator, dtype=dtype) for _ in range(4)]
    ids = [torch.randint(num_ids, (n, m), generator=generator) for _ in range(2)]
    ids[0][0, 1] = ids[0][1] = ids[1][2, 2:] = NONE
    ids[1][3] += 100
    return embeddings, ids


def value_and_gradients(loss, variant, embeddings, ids, **options):
    """Loss and gradients: B of the predictions, S of the two views, B+S of all four."""
    count = {"B": 2, "S": 2, "B+S": 4}[variant]
    leaves = [x.detach().clone().requires_grad_() for x in embeddings[:count]]
    inputs = leaves * 2 if variant == "S" else leaves + [x.detach() for x in embeddings[count:]]
    value = loss(*inputs, *ids, **options)
    value.backward()
    return [value.detach().cpu(), *(x.grad.cpu() for x in leaves)]


def assert_equal(found, expected, tolerance=1e-10):
    for x, y in zip(found, expected, strict=True):
        assert relative_error(x, y.numpy()) < tolerance


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize("variant", ["B", "S", "B+S"])
def test_any_tile_gives_the_dense_loss_and_gradients(variant, local_negatives, tile, device):
    embeddings, ids = random_problem()
    expected = value_and_gradients(dense_loss, variant, embeddings, ids, local_negatives=local_negatives)
    embeddings, ids = ([x.to(device) for x in group] for group in (embeddings, ids))
    assert_equal(value_and_gradients(detcon_loss, variant, embeddings, ids, local_negatives=local_negatives, tile=tile), expected)


@pytest.mark.parametrize("tile", [None, (3, 2)])
@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize("temperature", [1e-4, 0.01, 1 / 60, 0.02, 10.0])
def test_any_temperature_gives_the_dense_loss_and_gradients(temperature, local_negatives, tile):
    options = {"temperature": temperature, "local_negatives": local_negatives}
    embeddings, ids = random_problem()
    expected = value_and_gradients(dense_loss, "B+S", embeddings, ids, **options)
    assert_equal(value_and_gradients(detcon_loss, "B+S", embeddings, ids, **options, tile=tile), expected)


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("local_negatives", [True, False])
def test_devices_that_skip_no_row_give_the_same_loss(monkeypatch, local_negatives, temperature):
    options = {"temperature": temperature, "local_negatives": local_negatives}
    embeddings, ids = random_problem()
    expected = value_and_gradients(dense_loss, "S", embeddings, ids, **options)
    monkeypatch.setattr(tiles, "_SKIPPING_DEVICES", ())
    assert_equal(value_and_gradients(detcon_loss, "S", embeddings, ids, **options, tile=(3, 2)), expected)


@pytest.mark.parametrize("skipping", [("cpu",), ()])
@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("local_negatives", [True, False])
def test_rows_without_a_region_may_contain_nan(monkeypatch, local_negatives, temperature, skipping):
    monkeypatch.setattr(tiles, "_SKIPPING_DEVICES", skipping)
    options = {"temperature": temperature, "local_negatives": local_negatives}
    embeddings, ids = random_problem()
    expected = value_and_gradients(dense_loss, "B", embeddings, ids, **options)
    for x, view in zip(embeddings, (0, 1, 0, 1)):
        x[ids[view] == NONE] = torch.nan
    found = value_and_gradients(detcon_loss, "B", embeddings, ids, **options)
    assert_equal(found[:1], expected[:1])
    for x, y, view in zip(found[1:], expected[1:], ids):
        assert_equal([x[view != NONE]], [y[view != NONE]])


@pytest.mark.parametrize("scale", [0.0, 1e-9, 5e-7, 2e-6])
def test_tiny_rows_are_normalised_as_in_the_released_code(scale):
    embeddings, ids = random_problem()
    for x in embeddings:
        x[0] *= scale / x[0].norm(dim=-1, keepdim=True)
    assert_equal(value_and_gradients(detcon_loss, "B+S", embeddings, ids), value_and_gradients(dense_loss, "B+S", embeddings, ids))


def test_memory_layout_of_the_inputs_does_not_matter():
    embeddings, ids = random_problem()
    expected = value_and_gradients(dense_loss, "B", embeddings, ids)
    swapped = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in embeddings]
    assert_equal(value_and_gradients(detcon_loss, "B", swapped, ids), expected)


# At 1 / 60 exp comes closest to the limits of float32; for lower temperatures the maximum is subtracted.
@pytest.mark.parametrize("temperature", [0.1, 1 / 60, 0.01])
def test_float32_sums_of_thousands_of_columns_are_exact_to_its_precision(temperature):
    embeddings, ids = random_problem(n=64, m=16, d=16, num_ids=12, dtype=torch.float32)
    embeddings[0][4], embeddings[3][4] = 1, -1
    embeddings[2][5:] = embeddings[3][5:] = -1
    expected = value_and_gradients(dense_loss, "B", [x.double() for x in embeddings], ids, temperature=temperature)
    assert_equal(value_and_gradients(detcon_loss, "B", embeddings, ids, temperature=temperature), expected, 5e-6)


class Recorder(TorchDispatchMode):
    """Names of the operations and the most elements that any of their results has."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        self.largest = max([self.largest, *(x.numel() for x in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(x))])
        return result


@pytest.mark.parametrize("temperature", [0.1, 0.01])
@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize("variant", ["B", "S"])
def test_no_tensor_is_larger_than_a_tile(variant, local_negatives, temperature):
    n, m, d = 40, 8, 4
    embeddings, ids = random_problem(n, m, d)
    options = {"temperature": temperature, "local_negatives": local_negatives, "tile": (50, 10)}
    with Recorder() as recorder:
        value_and_gradients(detcon_loss, variant, embeddings, ids, **options)
    assert recorder.largest == 50 * 10 * m
    # The inputs and the masks of the images' own columns are smaller than a tile; the matrix of the logits is much larger.
    assert max(2 * n * m * d, n * m * m) < recorder.largest < n * m * 2 * n * m / 50


def test_gradients_are_computed_only_where_they_are_needed():
    embeddings, ids = random_problem()
    products = {}
    for name, needs in {"none": [], "pred": [0, 1], "targets": [2, 3], "all": range(4)}.items():
        leaves = [x.clone().requires_grad_(index in needs) for index, x in enumerate(embeddings)]
        with Recorder() as recorder:
            detcon_loss(*leaves, *ids, tile=(1000, 1000))
        products[name] = recorder.names.count("mm"), recorder.names.count("addmm_")
    # Two views against two views, and one more product for each gradient.
    assert products == {"none": (4, 0), "pred": (4, 4), "targets": (4, 4), "all": (4, 8)}
    with Recorder() as recorder, torch.no_grad():
        detcon_loss(*(x.clone().requires_grad_() for x in embeddings), *ids)
    assert "addmm_" not in recorder.names


def test_backward_scales_and_can_be_repeated():
    embeddings, ids = random_problem()
    pred = embeddings[0].requires_grad_()
    loss = detcon_loss(*embeddings, *ids)
    first, second = (torch.autograd.grad(loss * factor, pred, retain_graph=True)[0] for factor in (1.0, 3.0))
    assert torch.allclose(3 * first, second, rtol=1e-12)


def test_second_derivatives_are_refused():
    embeddings, ids = random_problem()
    loss = detcon_loss(embeddings[0].requires_grad_(), *embeddings[1:], *ids)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, embeddings[0], create_graph=True)


@pytest.mark.parametrize("tile", [(0, 4), (4, 0), (4,)])
def test_impossible_tiles_are_refused(tile):
    embeddings, ids = random_problem()
    with pytest.raises(ValueError, match=r"expected \(rows, images\), both >= 1"):
        detcon_loss(*embeddings, *ids, tile=tile)


def test_default_tile_grows_with_threads_but_not_without_limit(monkeypatch):
    targets = torch.empty(2, 4096, 16, 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert tiles.default_tile(targets) == (4096, 64)
    assert tiles.default_tile(targets[:, :8]) == (4096, 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 256)
    assert tiles.default_tile(targets) == (16384, 64)
    # Gradients to the targets need whole rows in memory.
    rows, _ = tiles.default_tile(targets.requires_grad_())
    assert rows == 256


def ablated_loss(pred1, pred2, target1, target2, ids1, ids2, *, group, two_views):
    """The definition row by row: logits of the row's group, of both views or of its own."""
    unit = [torch.nn.functional.normalize(x, dim=-1) for x in (pred1, pred2, target1, target2)]
    n, m, _ = pred1.shape
    total = 0
    for pred, other, own, ids, other_ids in ((unit[0], unit[3], unit[2], ids1, ids2), (unit[1], unit[2], unit[3], ids2, ids1)):
        if not two_views:
            other, other_ids = own, ids
        for image in range(n):
            start = image - image % group
            for row in range(m):
                positive = [j for j in range(m) if ids[image, row] == other_ids[image, j] != NONE]
                if not positive:
                    continue
                images = range(start, start + group)
                columns = [(other, other_ids, k, j) for k in images for j in range(m)]
                itself = [(k, j) for k in images for j in range(m) if k != image or ids[k, j] != ids[image, row]]
                columns += [(own, ids, k, j) for k, j in itself] if two_views else []
                logits = torch.stack([pred[image, row] @ x[k, j] for x, known, k, j in columns if known[k, j] != NONE]) / 0.1
                mean = sum(pred[image, row] @ other[image, j] for j in positive) / 0.1 / len(positive)
                total = total + (logits.logsumexp(0) - mean) / (ids[image] == ids[image, row]).sum() / (n * m)
    return total


@pytest.mark.parametrize("two_views", [True, False])
@pytest.mark.parametrize("group", [1, 2, 6])
def test_the_ablation_has_only_the_negatives_of_the_group_and_of_the_view(group, two_views):
    embeddings, ids = random_problem(n=6)
    options = {"group": group, "two_views": two_views}
    expected = value_and_gradients(ablated_loss, "B+S", embeddings, ids, **options)
    assert_equal(value_and_gradients(detcon_loss, "B+S", embeddings, ids, **options, tile=(3, 2)), expected)


@pytest.mark.parametrize("group", [0, 2])
def test_view_1_alone_has_its_rows_of_the_loss_of_both_views_and_needs_no_view_2(group):
    embeddings, ids = random_problem(n=6)
    (pred1, _, target1, _), (ids1, _) = embeddings, ids
    options = {"group": group, "two_views": False}
    # Both views are view 1 here, so each gives half of the loss.
    expected = detcon_loss(pred1, pred1, target1, target1, ids1, ids1, **options) / 2
    found = detcon_loss(*embeddings, *ids, view1_only=True, **options)
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_a_group_must_divide_the_batch():
    embeddings, ids = random_problem(n=6)
    with pytest.raises(ValueError, match="group is 4; expected 0, or a divisor of the 6 images"):
        detcon_loss(*embeddings, *ids, group=4)
