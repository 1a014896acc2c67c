"""BYOL's loss: oracle, range, precision, errors."""

import pytest
import torch

from detcon_d2.losses import byol_loss
from tests.losses.cases import PRECISIONS, assert_close

NAMES = ("prediction1", "prediction2", "target1", "target2")


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_loss_and_gradients_equal_the_released_code(one_process_cases, dtype, tolerance):
    for case in one_process_cases("byol"):
        tensors = [case.tensor(name, dtype, grad=True) for name in NAMES]
        loss = byol_loss(*tensors)
        loss.backward()
        assert loss.dtype == dtype
        assert_close(loss, case["loss"], tolerance)
        for name, x in zip(NAMES[:2], tensors):
            assert_close(x.grad, case[f"grad_{name}"], tolerance)
        assert tensors[2].grad is None and tensors[3].grad is None


def random_inputs(n=4, d=6, dtype=torch.float64):
    return [torch.randn(n, d, dtype=dtype) for _ in NAMES]


@pytest.mark.parametrize("n", [1, 4])
def test_loss_is_0_for_equal_directions_and_8_for_opposite_ones(n):
    x, y, *_ = random_inputs(n)
    torch.testing.assert_close(byol_loss(x, y, 3 * y, 2 * x), torch.tensor(0.0, dtype=x.dtype))
    torch.testing.assert_close(byol_loss(x, y, -y, -x), torch.tensor(8.0, dtype=x.dtype))
    assert byol_loss(x, y, y, x) == 0


def test_loss_is_twice_one_minus_the_cosine_summed_over_both_directions():
    p1, p2, t1, t2 = random_inputs()
    cosines = [torch.cosine_similarity(p, t, dim=1) for p, t in ((p1, t2), (p2, t1))]
    torch.testing.assert_close(byol_loss(p1, p2, t1, t2), sum(2 - 2 * x for x in cosines).mean())


def test_gradients_are_the_derivatives():
    p1, p2, t1, t2 = random_inputs()
    assert torch.autograd.gradcheck(lambda a, b: byol_loss(a, b, t1, t2), (p1.requires_grad_(), p2.requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    inputs = [x.to(dtype) for x in random_inputs()]
    inputs[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = byol_loss(*inputs)
    loss.backward()
    assert loss.dtype == torch.float32 and inputs[0].grad.isfinite().all()
    assert_close(loss, byol_loss(*(x.double() for x in inputs)).detach().numpy(), 1e-5)


def test_zero_rows_give_a_finite_loss():
    inputs = [x.half() for x in random_inputs()]
    inputs[0][0], inputs[3][0] = 0, 0
    assert 0 < byol_loss(*inputs) < 8


def test_predictions_and_targets_may_differ_in_dtype():
    p1, p2, t1, t2 = random_inputs(dtype=torch.float32)
    torch.testing.assert_close(byol_loss(p1, p2, t1.half(), t2.half()), byol_loss(p1, p2, t1.half().float(), t2.half().float()))


def test_wrong_shapes_are_refused_by_name():
    p1, p2, t1, _ = random_inputs()
    with pytest.raises(ValueError, match=r"target2 has shape \(4, 5\); expected \(4, 6\), the shape of prediction1"):
        byol_loss(p1, p2, t1, torch.zeros(4, 5))
