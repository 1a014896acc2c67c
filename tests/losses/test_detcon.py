"""The loss in one process: oracles, golden values, an independent reference, properties, errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcon_d2.losses import detcon_loss
from tests.modeling.oracles import read_cases, relative_error

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
NONE = 65535


def run_case(case, dtype):
    """Loss and gradients of one oracle case."""
    pred1, pred2 = (torch.tensor(case[name], dtype=dtype, requires_grad=True) for name in ("pred1", "pred2"))
    target1, target2 = (torch.tensor(case[name], dtype=dtype) for name in ("target1", "target2"))
    ids1, ids2 = (torch.tensor(case[name]).long() for name in ("pind1", "pind2"))
    options = {"temperature": float(case["temperature"]), "local_negatives": bool(case["local_negatives"])}
    loss = detcon_loss(pred1, pred2, target1, target2, ids1, ids2, **options)
    loss.backward()
    return loss, pred1.grad, pred2.grad


def assert_equals_oracle(case, dtype):
    loss, grad1, grad2 = run_case(case, dtype)
    assert loss.dtype == dtype
    assert relative_error(loss.item(), case["loss_f64pure"]) < TOLERANCE[dtype]
    assert relative_error(grad1, case["g1_f64pure"]) < TOLERANCE[dtype]
    assert relative_error(grad2, case["g2_f64pure"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["case00", "case02", "case07", "case09", "case12"])
def test_loss_and_gradients_equal_the_released_code(fixtures_dir, name, dtype):
    assert_equals_oracle(read_cases(fixtures_dir / "loss_small.npz")[name], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_equal_the_released_code_in_every_case(shared_dir, dtype):
    cases = read_cases(shared_dir / "oracles" / "loss_oracle.npz")
    assert len(cases) == 8
    for case in cases.values():
        assert_equals_oracle(case, dtype)


@pytest.mark.parametrize(
    ("x", "ids", "expected"),
    [
        (
            [[[0.48962486, 0.2522575], [-0.6273904, -0.7026027]], [[0.7157335, -0.5684994], [-1.7461833, -2.7258704]]],
            [[1, 0], [1, 1]],
            3.012971,
        ),
        ([[[-0.6067, -1.6712], [0.5318, -0.1990]], [[0.0800, -0.3512], [-0.3968, -1.0643]]], [[0, 0], [0, 0]], 3.608637),
    ],
)
def test_golden_values(x, ids, expected):
    x, ids = torch.tensor(x), torch.tensor(ids)
    assert detcon_loss(x, x, x, x, ids, ids).item() == pytest.approx(expected, abs=1e-4)


def reference_loss(pred1, pred2, target1, target2, ids1, ids2, temperature, local_negatives):
    """The definition, entry by entry, in Python floats."""

    def normalize(vector):
        return vector / math.sqrt(max(float(vector @ vector), 1e-12))

    def half(pred, other, own, ids, other_ids, own_ids):
        n, m = ids.shape
        total = 0.0
        for b in range(n):
            for r in range(m):
                if ids[b, r] == NONE:
                    continue
                kept, positives = [], []
                for targets, target_ids, is_own in ((other, other_ids, False), (own, own_ids, True)):
                    for c in range(n):
                        for s in range(m):
                            if target_ids[c, s] == NONE:
                                continue
                            logit = float(normalize(pred[b, r]) @ normalize(targets[c, s])) / temperature
                            same = b == c and ids[b, r] == target_ids[c, s]
                            if same and not is_own:
                                positives.append(logit)
                                kept.append(logit)
                            elif not same and (b != c or local_negatives):
                                kept.append(logit)
                if positives:
                    weight = 1 / sum(int(other_row == ids[b, r]) for other_row in ids[b])
                    total += weight * (math.log(sum(math.exp(logit) for logit in kept)) - sum(positives) / len(positives))
        return total / (n * m)

    return half(pred1, target2, target1, ids1, ids2, ids1) + half(pred2, target1, target2, ids2, ids1, ids2)


@st.composite
def problems(draw):
    n, m, d = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    embeddings = [rng.standard_normal((n, m, d)) for _ in range(4)]
    ids = [rng.choice([0, 1, 2, 65534, NONE], (n, m)) for _ in range(2)]
    return (*embeddings, *ids), draw(st.sampled_from([0.1, 0.5, 1.0])), draw(st.booleans())


@given(problems())
@settings(max_examples=100, deadline=None)
def test_loss_is_its_definition_entry_by_entry_for_any_ids(problem):
    arrays, temperature, local_negatives = problem
    found = detcon_loss(*map(torch.tensor, arrays), temperature=temperature, local_negatives=local_negatives)
    assert found.item() == pytest.approx(reference_loss(*arrays, temperature, local_negatives), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("local_negatives", [True, False])
def test_gradients_are_the_derivatives_with_and_without_stopped_targets(local_negatives):
    torch.manual_seed(0)
    x1, x2, t1, t2 = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(4))
    ids1, ids2 = torch.tensor([[0, 1, 0], [2, NONE, 3]]), torch.tensor([[1, 1, 0], [NONE, 2, 5]])
    options = {"temperature": 0.5, "local_negatives": local_negatives}
    assert torch.autograd.gradcheck(lambda *x: detcon_loss(*x, ids1, ids2, **options), (x1, x2, t1, t2))
    # DetCon_S: predictions are the targets.
    assert torch.autograd.gradcheck(lambda a, b: detcon_loss(a, b, a, b, ids1, ids2, **options), (x1, x2))


def random_inputs(n=3, m=4, d=5, num_ids=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(n, m, d, generator=generator) for _ in range(4)]
    return *embeddings, *(torch.randint(num_ids, (n, m), generator=generator) for _ in range(2))


@pytest.mark.parametrize("local_negatives", [True, False])
@pytest.mark.parametrize(
    ("n", "ids1", "ids2"), [(1, 0, 0), (1, 0, 1), (1, NONE, NONE), (1, 0, NONE), (3, 0, 1), (3, NONE, NONE), (3, NONE, 0)]
)
def test_rows_without_a_positive_or_without_any_column_give_zero_and_not_nan(n, ids1, ids2, local_negatives):
    pred1, pred2, target1, target2, *_ = random_inputs(n=n)
    pred1, pred2, target1, target2 = (x.requires_grad_() for x in (pred1, pred2, target1, target2))
    ids1, ids2 = torch.full((n, 4), ids1), torch.full((n, 4), ids2)
    loss = detcon_loss(pred1, pred2, target1, target2, ids1, ids2, local_negatives=local_negatives)
    loss.backward()
    gradients = torch.stack([x.grad for x in (pred1, pred2, target1, target2)])
    assert torch.isfinite(loss) and gradients.isfinite().all()
    if not torch.equal(ids1, ids2) or ids1[0, 0] == NONE:
        assert loss.item() == 0 and not gradients.any()


def test_embeddings_of_rows_without_a_region_do_not_matter():
    pred1, pred2, target1, target2, ids1, ids2 = random_inputs()
    ids1[0, 1] = ids2[0, 2] = ids2[2] = NONE
    before = detcon_loss(pred1, pred2, target1, target2, ids1, ids2)
    for x, ids in ((pred1, ids1), (target1, ids1), (pred2, ids2), (target2, ids2)):
        x[ids == NONE] = 7.0
    assert detcon_loss(pred1, pred2, target1, target2, ids1, ids2) == before


def test_zero_embeddings_and_a_tiny_temperature_stay_finite():
    pred1, pred2, target1, target2, ids1, ids2 = random_inputs()
    pred1[0], target2[1] = 0, 0
    pred1.requires_grad_()
    loss = detcon_loss(pred1, pred2, target1, target2, ids1, ids2, temperature=1e-4)
    loss.backward()
    assert loss.isfinite() and pred1.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_and_autocast_are_computed_in_float32(dtype):
    *embeddings, ids1, ids2 = random_inputs()
    halves = [x.to(dtype).requires_grad_() for x in embeddings]
    expected = detcon_loss(*(x.detach().double() for x in halves), ids1, ids2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = detcon_loss(*halves, ids1, ids2)
        loss.backward()
    assert loss.dtype == torch.float32
    assert relative_error(loss.item(), expected) < 1e-6
    assert halves[0].grad.dtype == dtype


def test_order_of_views_and_names_of_regions_do_not_matter():
    pred1, pred2, target1, target2, ids1, ids2 = random_inputs()
    loss = detcon_loss(pred1, pred2, target1, target2, ids1, ids2)
    assert torch.allclose(detcon_loss(pred2, pred1, target2, target1, ids2, ids1), loss)
    renamed = torch.tensor([40000, 65534, 256])
    assert detcon_loss(pred1, pred2, target1, target2, renamed[ids1], renamed[ids2]) == loss


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred1": torch.zeros(3, 4)}, r"pred1 has shape \(3, 4\); expected \(N, M, D\)"),
        ({"pred1": torch.zeros(0, 4, 5)}, "none of them 0"),
        ({"pred2": torch.zeros(3, 4, 6)}, r"pred2 has shape \(3, 4, 6\); expected \(3, 4, 5\)"),
        ({"target2": torch.zeros(2, 4, 5)}, "target2 has shape"),
        ({"target1": torch.zeros(3, 4, 5, dtype=torch.int64)}, "target1 has dtype torch.int64; expected a floating"),
        ({"ids1": torch.zeros(3, 5, dtype=torch.int64)}, r"ids1 has shape \(3, 5\); expected \(3, 4\)"),
        ({"ids2": torch.zeros(3, 4)}, r"ids2 has dtype torch.float32; expected torch.int64: use ids2.long\(\)"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number > 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, message):
    names = ("pred1", "pred2", "target1", "target2", "ids1", "ids2")
    with pytest.raises(ValueError, match=message):
        detcon_loss(**dict(zip(names, random_inputs())) | change)
