"""NT-Xent in one process: oracle, definition, DetCon's loss, precision, errors."""

import pytest
import torch

from detcon_d2.losses import detcon_loss, nt_xent_loss
from detcon_d2.losses.nt_xent import contrast_views
from tests.losses.cases import PRECISIONS, assert_close


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_loss_and_gradient_equal_the_released_code(one_process_cases, dtype, tolerance):
    for case in one_process_cases("simclr"):
        z = case.tensor("z", dtype, grad=True)
        z1, z2 = z.chunk(2)
        temperature = float(case["temperature"])
        loss = nt_xent_loss(z1, z2, temperature=temperature) if case["hidden_norm"] else contrast_views(torch.stack([z1, z2]), temperature)
        loss.backward()
        assert loss.dtype == dtype
        assert_close(loss, case["loss"], tolerance)
        assert_close(z.grad, case["grad_z"], tolerance)


def random_views(n=5, d=7, dtype=torch.float64):
    return [torch.randn(n, d, dtype=dtype, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("n", [1, 2, 6])
def test_loss_is_detcons_with_one_region_and_one_draw(n, temperature):
    views = random_views(n)
    regions = [x.unsqueeze(1) for x in views]
    ids = torch.zeros(n, 1, dtype=torch.int64)
    expected = detcon_loss(*regions, *regions, ids, ids, temperature=temperature)
    found = nt_xent_loss(*views, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for x, y in zip(torch.autograd.grad(found, views), torch.autograd.grad(expected, views)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_loss_is_its_definition_row_by_row():
    a, b = (x / x.norm(dim=1, keepdim=True) for x in random_views(4))
    total = 0.0
    for own, other in ((a, b), (b, a)):
        for i in range(4):
            logits = [own[i] @ other[j] / 0.2 for j in range(4)] + [own[i] @ own[j] / 0.2 for j in range(4) if j != i]
            total = total + torch.stack(logits).logsumexp(0) - logits[i]
    torch.testing.assert_close(nt_xent_loss(a, b, temperature=0.2), total / 4)


def test_one_image_has_no_negatives_and_no_loss():
    z1, z2 = random_views(n=1)
    loss = nt_xent_loss(z1, z2, temperature=0.1)
    loss.backward()
    assert loss == 0 and not z1.grad.any() and not z2.grad.any()


def test_gradients_are_the_derivatives():
    assert torch.autograd.gradcheck(lambda z1, z2: nt_xent_loss(z1, z2, temperature=0.5), random_views())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    views = [x.detach().to(dtype).requires_grad_() for x in random_views()]
    expected = nt_xent_loss(*(x.double() for x in views), temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent_loss(*views, temperature=0.1)
    loss.backward()
    assert loss.dtype == torch.float32 and views[0].grad.isfinite().all()
    assert_close(loss, expected.detach().numpy(), 1e-5)


@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_long_and_zero_float16_embeddings_give_a_finite_loss(scale):
    views = [(x.detach().sign() * scale).half() for x in random_views()]
    assert nt_xent_loss(*views, temperature=0.1).isfinite()


@pytest.mark.parametrize(
    ("z1", "z2", "temperature", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 0.1, r"z1 has shape \(2, 3, 4\); expected \(N, D\)"),
        (torch.zeros(0, 4), torch.zeros(0, 4), 0.1, "none of them 0"),
        (torch.zeros(2, 4), torch.zeros(3, 4), 0.1, r"z2 has shape \(3, 4\); expected \(2, 4\), the shape of z1"),
        (torch.zeros(2, 4).long(), torch.zeros(2, 4), 0.1, "z1 has dtype torch.int64; expected a floating-point one"),
        (torch.zeros(2, 4), torch.zeros(2, 4), 0.0, "temperature is 0.0; expected a number > 0"),
        (torch.zeros(2, 4), torch.zeros(2, 4), float("nan"), "temperature is nan"),
    ],
)
def test_wrong_inputs_are_refused_by_name(z1, z2, temperature, message):
    with pytest.raises(ValueError, match=message):
        nt_xent_loss(z1, z2, temperature=temperature)
