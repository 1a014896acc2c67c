"""SwAV's codes and loss in one process: oracle, definition, marginals, precision, errors."""

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses import sinkhorn_codes, swav_loss
from tests.losses.cases import PRECISIONS, assert_close


def released_step(step, prototypes, queue, options, dtype):
    """Loss, leaves and codes of one step of a case; the queue's rows (2, L, D), if it is full, go to Sinkhorn before the batch."""
    projections = step.tensor("projections", dtype, grad=True)
    prototypes.requires_grad_()
    features = F.normalize(projections, dim=2)
    scores = [x @ prototypes.T for x in features]
    codes = []
    for crop in (0, 1):
        rows = scores[crop].detach()
        if queue is not None and queue[crop, -1].any():
            rows = torch.cat([queue[crop] @ prototypes.detach().T, rows])
        codes.append(sinkhorn_codes(rows, epsilon=options["epsilon"], iterations=options["sinkhorn_iterations"]))
    loss = swav_loss(scores, [x[-len(scores[0]) :] for x in codes], temperature=options["temperature"])
    return loss, projections, codes


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_codes_loss_and_gradients_equal_the_released_code_step_by_step(one_process_cases, dtype, tolerance):
    for case in one_process_cases("swav"):
        options = {name: case[name].item() for name in ("epsilon", "sinkhorn_iterations", "temperature")}
        queue = None
        for step in range(int(case["steps"])):
            found = case.part(f"step{step}/rank0")
            prototypes = case.tensor(f"step{step}/prototypes_normalised", dtype)
            loss, projections, codes = released_step(found, prototypes, queue, options, dtype)
            loss.backward()
            for crop in (0, 1):
                assert_close(codes[crop], found[f"codes_crop{crop}"], tolerance)
            assert_close(loss, found["loss"], tolerance)
            assert_close(projections.grad, found["grad_projections"], tolerance)
            if found["grad_prototypes"].size:
                assert_close(prototypes.grad, found["grad_prototypes"], tolerance)
            queue = found.tensor("queue_after", dtype) if "queue_after" in found else None


def random_scores(b=12, k=4, dtype=torch.float64):
    return F.normalize(torch.randn(b, 6, dtype=dtype), dim=1) @ F.normalize(torch.randn(6, k, dtype=dtype), dim=0)


def reference_codes(scores, epsilon, iterations):
    """The released code's order of factors, in sums of exponentials."""
    matrix = (scores / epsilon).exp().T
    matrix = matrix / matrix.sum()
    prototypes, samples = matrix.shape
    for _ in range(iterations):
        matrix = matrix / matrix.sum(1, keepdim=True) / prototypes
        matrix = matrix / matrix.sum(0, keepdim=True) / samples
    return (matrix * samples).T


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.05, 3), (0.05, 1), (1.0, 10)])
@pytest.mark.parametrize("b", [1, 12])
def test_codes_are_their_definition(b, epsilon, iterations):
    scores = random_scores(b)
    expected = reference_codes(scores, epsilon, iterations)
    torch.testing.assert_close(sinkhorn_codes(scores, epsilon=epsilon, iterations=iterations), expected, rtol=1e-9, atol=1e-12)


def test_rows_sum_to_one_and_columns_become_equal():
    codes = sinkhorn_codes(random_scores(), iterations=2000)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_equal_scores_give_uniform_codes():
    torch.testing.assert_close(sinkhorn_codes(torch.full((3, 5), 0.7)), torch.full((3, 5), 0.2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_scores_of_any_size_give_finite_codes(dtype):
    codes = sinkhorn_codes((1000 * random_scores()).to(dtype))
    assert codes.dtype == torch.float32 and codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(12))


def test_scores_are_not_changed_and_codes_have_no_graph():
    scores = random_scores().requires_grad_()
    before = scores.detach().clone()
    assert not sinkhorn_codes(scores).requires_grad
    assert torch.equal(scores, before)


def random_crops(v=3, n=4, k=5, dtype=torch.float64):
    return [torch.randn(n, k, dtype=dtype) for _ in range(v)]


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("v", "a"), [(2, 1), (2, 2), (3, 2), (4, 4)])
def test_loss_is_the_mean_over_pairs_of_different_crops(v, a, n):
    scores, codes = random_crops(v, n), [x.softmax(1) for x in random_crops(a, n)]
    terms = [-(codes[i] * (scores[j] / 0.2).log_softmax(1)).sum(1).mean() for i in range(a) for j in range(v) if j != i]
    torch.testing.assert_close(swav_loss(scores, codes, temperature=0.2), torch.stack(terms).mean())


def test_gradient_goes_to_the_scores_of_all_crops_and_not_to_the_codes():
    scores, codes = [x.requires_grad_() for x in random_crops()], [x.softmax(1).requires_grad_() for x in random_crops(2)]
    swav_loss(scores, codes).backward()
    assert all(x.grad.any() for x in scores) and all(x.grad is None for x in codes)
    fixed = [x.detach() for x in codes]
    assert torch.autograd.gradcheck(lambda *x: swav_loss(x, fixed, temperature=0.5), scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    scores = [x.to(dtype) for x in random_crops()]
    codes = [sinkhorn_codes(x) for x in scores[:2]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = swav_loss([x.requires_grad_() for x in scores], codes)
    loss.backward()
    assert loss.dtype == torch.float32 and scores[2].grad.isfinite().all()
    assert_close(loss, swav_loss([x.double() for x in scores], codes).detach().numpy(), 1e-5)


@pytest.mark.parametrize(
    ("scores", "codes", "message"),
    [
        (random_crops(1), random_crops(1), "scores of 1 crops and codes of 1; expected at least 2"),
        (random_crops(2), [], "scores of 2 crops and codes of 0"),
        (random_crops(2), random_crops(3), "scores of 2 crops and codes of 3"),
        (random_crops(2), random_crops(2, n=3), r"codes\[0\] has shape \(3, 5\); expected \(4, 5\), the shape of scores\[0\]"),
    ],
)
def test_wrong_crops_are_refused(scores, codes, message):
    with pytest.raises(ValueError, match=message):
        swav_loss(scores, codes)


@pytest.mark.parametrize(("name", "value"), [("epsilon", 0.0), ("iterations", 0)])
def test_wrong_numbers_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; expected a number > 0"):
        sinkhorn_codes(random_scores(), **{name: value})
