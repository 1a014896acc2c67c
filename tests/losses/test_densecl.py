"""DenseCL's matching and losses in one process: oracle, definitions, ties, precision, errors."""

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses import DenseCLEmbeddings, densecl_losses, densecl_match
from detcon_d2.modeling.queue import FeatureQueue
from tests.losses.cases import PRECISIONS, assert_close


def embed(features, neck):
    """The released neck: two layers on the pooled features, and the same as 1x1 convolutions on the map."""
    pooled = features.mean(dim=(2, 3))
    hidden = F.linear(pooled, neck["mlp.0.weight"], neck["mlp.0.bias"]).relu()
    hidden2 = F.conv2d(features, neck["mlp2.0.weight"], neck["mlp2.0.bias"]).relu()
    return DenseCLEmbeddings(
        F.linear(hidden, neck["mlp.2.weight"], neck["mlp.2.bias"]), F.conv2d(hidden2, neck["mlp2.2.weight"], neck["mlp2.2.bias"])
    )


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_match_losses_gradients_and_queues_equal_the_released_code_step_by_step(one_process_cases, dtype, tolerance):
    for case in one_process_cases("densecl"):
        queues = []
        for name in ("queue_0", "queue2_0"):
            queues.append(FeatureQueue(*case[name].shape).to(dtype))
            queues[-1].features.copy_(case.tensor(name, dtype))
        neck_q = case.part("neck_0")
        for step in range(int(case["steps"])):
            found, neck_k = case.part(f"step{step}/rank0"), case.part(f"step{step}/neck_k")
            leaves = {name: neck_q.tensor(name, dtype, grad=True) for name in neck_q}
            features = found.tensor("feat_q", dtype, grad=True)
            query = embed(features, leaves)
            key = embed(found.tensor("feat_k", dtype), {name: neck_k.tensor(name, dtype) for name in neck_k})
            match = densecl_match(features, found.tensor("feat_k", dtype))
            assert torch.equal(match, found.tensor("match"))
            options = {"temperature": float(case["temperature"]), "dense_weight": float(case["loss_lambda"])}
            losses = densecl_losses(query, key, match, *(queue.features for queue in queues), **options)
            for queue, keys in zip(queues, (key.image, key.cells.mean(dim=(2, 3)))):
                queue.enqueue(keys)
            sum(losses).backward()
            for loss, name in zip(losses, ("loss_single_weighted", "loss_dense_weighted")):
                assert_close(loss, found[name], tolerance)
            assert_close(features.grad, found["grad_feat_q"], tolerance)
            for name, leaf in leaves.items():
                assert_close(leaf.grad, found[f"grad/{name}"], tolerance)
            for queue, name, pointer in zip(queues, ("queue_after", "queue2_after"), ("ptr_after", "ptr2_after")):
                assert_close(queue.features, found[name], tolerance)
                assert queue.pointer == found[pointer].item()
            neck_q = case.part(f"step{step}/neck_q_after_sgd")


def random_maps(n=2, c=5, h=3, w=4):
    return [torch.randn(n, c, h, w, dtype=torch.float64) for _ in range(2)]


def test_match_is_the_most_similar_cell_whatever_the_length_of_its_features():
    features_q, features_k = random_maps()
    match = densecl_match(features_q, features_k * torch.rand(2, 1, 3, 4).double())
    assert match.shape == (2, 12) and match.dtype == torch.int64
    for n in range(2):
        for i in range(12):
            cosines = [
                torch.cosine_similarity(features_q[n].flatten(1)[:, i], features_k[n].flatten(1)[:, j], dim=0).item() for j in range(12)
            ]
            assert match[n, i] == max(range(12), key=cosines.__getitem__)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_cells_the_first_is_taken(dtype):
    # Features with exact products: cells 0, 1, 2, ... of the key show 0 1 0 1 ...
    key = torch.eye(2, dtype=dtype)[torch.arange(49) % 2].T.reshape(1, 2, 7, 7)
    query = torch.eye(2, dtype=dtype)[torch.arange(49) // 25].T.reshape(1, 2, 7, 7)
    assert densecl_match(query, key)[0].tolist() == [0] * 25 + [1] * 24
    assert not densecl_match(torch.zeros_like(query), key).any()


def random_embeddings(n=2, d=3, h=2, w=2, grad=False):
    return DenseCLEmbeddings(*(torch.randn(*shape, dtype=torch.float64).requires_grad_(grad) for shape in ((n, d), (n, d, h, w))))


def random_queues(d=3, k=5):
    return [F.normalize(torch.randn(d, k, dtype=torch.float64), dim=0) for _ in range(2)]


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("dense_weight", [0.0, 0.3, 1.0])
def test_losses_are_their_definition_row_by_row(dense_weight, n):
    query, key, queues = random_embeddings(n), random_embeddings(n), random_queues()
    match = torch.randint(4, (n, 4))

    def info_nce(q, k, queue):
        logits = torch.stack([torch.cosine_similarity(q, x, dim=0) / 0.2 for x in [k, *queue.T]])
        return logits.logsumexp(0) - logits[0]

    image = sum(info_nce(q, k, queues[0]) for q, k in zip(query.image, key.image)) / n
    dense = 0.0
    for i in range(n):
        cells_q, cells_k = query.cells[i].flatten(1), key.cells[i].flatten(1)
        dense = dense + sum(info_nce(cells_q[:, j], cells_k[:, match[i, j]], queues[1]) for j in range(4)) / (4 * n)
    found = densecl_losses(query, key, match, *queues, dense_weight=dense_weight)
    torch.testing.assert_close(torch.stack(found), torch.stack([(1 - dense_weight) * image, dense_weight * dense]))


def test_gradient_goes_to_the_query_only_and_is_the_derivative():
    query, key, queues = random_embeddings(grad=True), random_embeddings(grad=True), random_queues()
    match = torch.randint(4, (2, 4))
    sum(densecl_losses(query, key, match, *queues)).backward()
    assert all(x.grad is not None for x in query) and all(x.grad is None for x in key)
    assert torch.autograd.gradcheck(lambda *x: sum(densecl_losses(DenseCLEmbeddings(*x), key, match, *queues)), tuple(query))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    query, key = (DenseCLEmbeddings(*(x.to(dtype) for x in random_embeddings())) for _ in range(2))
    queues = [x.float() for x in random_queues()]
    maps = [x.to(dtype) for x in random_maps(h=2, w=2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        match = densecl_match(*maps)
        losses = densecl_losses(query, key, match, *queues)
    assert torch.equal(match, densecl_match(*(x.double() for x in maps)))
    wide = (DenseCLEmbeddings(*(x.double() for x in embeddings)) for embeddings in (query, key))
    for loss, expected in zip(losses, densecl_losses(*wide, match, *queues)):
        assert loss.dtype == torch.float32
        assert_close(loss, expected.numpy(), 1e-5)


def test_wrong_maps_are_refused_by_name():
    features_q, features_k = random_maps()
    with pytest.raises(ValueError, match=r"features_k has shape \(2, 5, 3, 3\); expected \(2, 5, 3, 4\)"):
        densecl_match(features_q, features_k[..., :3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"match": torch.zeros(2, 9).long()}, r"match has shape \(2, 9\) and dtype torch.int64; expected \(2, 4\), torch.int64"),
        ({"match": torch.zeros(2, 4)}, r"match has shape \(2, 4\) and dtype torch.float32"),
        ({"key": random_embeddings(h=3)}, r"key.cells has shape \(2, 3, 3, 2\); expected \(2, 3, 2, 2\), the shape of query.cells"),
        ({"dense_weight": 1.5}, r"dense_weight is 1.5; expected a number in \[0, 1\]"),
        ({"dense_queue": torch.zeros(4, 5)}, r"queue has shape \(4, 5\); expected \(3, K\)"),
    ],
)
def test_wrong_embeddings_are_refused_by_name(change, message):
    queue, dense_queue = random_queues()
    inputs = {"query": random_embeddings(), "key": random_embeddings(), "match": torch.zeros(2, 4).long()}
    inputs |= {"queue": queue, "dense_queue": dense_queue} | change
    with pytest.raises(ValueError, match=message):
        densecl_losses(**inputs)
