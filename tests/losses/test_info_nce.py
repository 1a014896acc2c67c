"""MoCo's loss and queue in one process: oracle, definition, precision, errors."""

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses import info_nce_logits, info_nce_loss
from detcon_d2.modeling.queue import FeatureQueue
from tests.losses.cases import PRECISIONS, assert_close


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_logits_loss_gradients_and_queue_equal_the_released_code_step_by_step(one_process_cases, dtype, tolerance):
    for case in one_process_cases("moco"):
        queue = FeatureQueue(int(case["dim"]), int(case["K"])).to(dtype)
        queue.features.copy_(case.tensor("queue_0", dtype))
        weight = case.tensor("Wq_0", dtype, grad=True)
        for step in range(int(case["steps"])):
            found = case.part(f"step{step}/rank0")
            image = found.tensor("im_q", dtype, grad=True)
            query, key = image @ weight.T, found.tensor("im_k", dtype) @ found.tensor("Wk_after", dtype).T
            options = {"temperature": float(case["temperature"])}
            assert_close(info_nce_logits(query, key, queue.features, **options), found["logits"], tolerance)
            loss = info_nce_loss(query, key, queue.features, **options)
            # As in training: the queue changes before the backward pass.
            queue.enqueue(key)
            loss.backward()
            assert_close(loss, found["loss"], tolerance)
            assert_close(image.grad, found["grad_im_q"], tolerance)
            assert_close(weight.grad, found["grad_Wq"], tolerance)
            assert_close(queue.features, found["queue_after"], tolerance)
            assert queue.pointer == found["queue_ptr_after"].item()
            weight = case.tensor(f"step{step}/Wq_after", dtype, grad=True)


def random_inputs(n=3, d=4, k=5, dtype=torch.float64):
    query, key = torch.randn(n, d, dtype=dtype, requires_grad=True), torch.randn(n, d, dtype=dtype, requires_grad=True)
    return query, key, F.normalize(torch.randn(d, k, dtype=dtype), dim=0)


@pytest.mark.parametrize("n", [1, 3])
def test_logits_are_cosines_with_the_key_and_with_the_queue(n):
    query, key, queue = random_inputs(n)
    logits = info_nce_logits(query, key, queue, temperature=0.2)
    assert logits.shape == (n, 6)
    for i in range(n):
        for j, other in enumerate([key[i], *queue.T]):
            torch.testing.assert_close(logits[i, j], torch.cosine_similarity(query[i], other, dim=0) / 0.2)


def test_gradient_goes_to_the_query_only_and_is_the_derivative():
    query, key, queue = random_inputs()
    queue.requires_grad_()
    info_nce_loss(query, key, queue, temperature=0.2).backward()
    assert key.grad is None and queue.grad is None
    assert torch.autograd.gradcheck(lambda x: info_nce_loss(x, key.detach(), queue.detach(), temperature=0.2), query)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    query, key, queue = (x.detach().to(dtype) for x in random_inputs())
    key[1] = 0
    query.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce_loss(query, key, queue, temperature=0.07)
    loss.backward()
    assert loss.dtype == torch.float32 and query.grad.isfinite().all()
    expected = info_nce_loss(query.double(), key.double(), queue.double(), temperature=0.07)
    assert_close(loss, expected.detach().numpy(), 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(2, 4)}, r"key has shape \(2, 4\); expected \(3, 4\), the shape of query"),
        ({"queue": torch.zeros(5, 5)}, r"queue has shape \(5, 5\); expected \(4, K\), as query has 4 dimensions"),
        ({"queue": torch.zeros(4)}, r"queue has shape \(4,\); expected \(D, K\)"),
        ({"temperature": -1.0}, "temperature is -1.0; expected a number > 0"),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, message):
    inputs = dict(zip(("query", "key", "queue"), random_inputs())) | {"temperature": 0.1} | change
    with pytest.raises(ValueError, match=message):
        info_nce_logits(**inputs)
