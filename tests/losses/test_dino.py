"""DINO's loss and centre in one process: oracle, definition, precision, errors."""

import math

import pytest
import torch

from detcon_d2.losses import dino_loss, next_center
from tests.losses.cases import PRECISIONS, assert_close


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_loss_gradient_and_centre_equal_the_released_code_step_by_step(one_process_cases, dtype, tolerance):
    for case in one_process_cases("dino"):
        center = case.tensor("center_0", dtype).flatten()
        for step, epoch in enumerate(case["epochs"]):
            found = case.part(f"step{step}/rank0")
            student = found.tensor("student", dtype, grad=True)
            teacher = found.tensor("teacher", dtype).unflatten(0, (2, -1))
            temperatures = {
                "student_temperature": float(case["student_temp"]),
                "teacher_temperature": float(case["teacher_temp_schedule"][epoch]),
            }
            loss = dino_loss(student.unflatten(0, (int(case["ncrops"]), -1)), teacher, center, **temperatures)
            loss.backward()
            center = next_center(teacher, center, momentum=float(case["center_momentum"]))
            assert_close(loss, found["loss"], tolerance)
            assert_close(student.grad, found["grad_student"], tolerance)
            assert_close(center, found["center_after"].ravel(), tolerance)


TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.04}


def random_inputs(v=4, n=3, k=5, dtype=torch.float64):
    return torch.randn(v, n, k, dtype=dtype), torch.randn(2, n, k, dtype=dtype), torch.randn(k, dtype=dtype)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("v", [2, 4])
def test_loss_is_the_mean_over_pairs_of_different_crops(v, n):
    student, teacher, center = random_inputs(v, n)
    total = 0.0
    for a in range(2):
        for b in range(v):
            if a != b:
                labels = ((teacher[a] - center) / 0.04).softmax(1)
                total = total - (labels * (student[b] / 0.1).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(dino_loss(student, teacher, center, **TEMPERATURES), total / (2 * (v - 1)))


def test_a_uniform_student_has_the_loss_of_chance():
    student, teacher, center = random_inputs(k=7)
    loss = dino_loss(torch.zeros_like(student), teacher, center, **TEMPERATURES)
    assert loss.item() == pytest.approx(math.log(7))


def test_gradient_goes_to_the_student_only_and_is_the_derivative():
    student, teacher, center = (x.requires_grad_() for x in random_inputs())
    dino_loss(student, teacher, center, **TEMPERATURES).backward()
    assert student.grad.flatten(1).any(1).all() and teacher.grad is None and center.grad is None
    assert torch.autograd.gradcheck(lambda x: dino_loss(x, teacher.detach(), center.detach(), **TEMPERATURES), student)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    student, teacher, center = random_inputs()
    student, teacher = (30 * student).to(dtype).requires_grad_(), (30 * teacher).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dino_loss(student, teacher, center.float(), **TEMPERATURES)
    loss.backward()
    assert loss.dtype == torch.float32 and student.grad.isfinite().all()
    assert_close(loss, dino_loss(student.double(), teacher.double(), center.float().double(), **TEMPERATURES).detach().numpy(), 1e-5)
    assert next_center(teacher, center.float()).dtype == torch.float32


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_centre_moves_to_the_mean_of_the_teacher(momentum):
    _, teacher, center = random_inputs()
    teacher.requires_grad_()
    found = next_center(teacher, center, momentum=momentum)
    torch.testing.assert_close(found, momentum * center + (1 - momentum) * teacher.detach().flatten(0, 1).mean(0))
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": torch.zeros(1, 3, 5)}, r"student has shape \(1, 3, 5\); expected \(V, N, K\) with at least 2 crops"),
        ({"student": torch.zeros(4, 3)}, r"student has shape \(4, 3\); expected \(V, N, K\)"),
        ({"teacher": torch.zeros(3, 3, 5)}, r"teacher has shape \(3, 3, 5\); expected \(2, 3, 5\)"),
        ({"teacher": torch.zeros(2, 4, 5)}, r"teacher has shape \(2, 4, 5\); expected \(2, 3, 5\)"),
        ({"center": torch.zeros(1, 5)}, r"center has shape \(1, 5\); expected \(K,\)"),
        ({"center": torch.zeros(4)}, r"center has shape \(4,\); expected \(5,\), as teacher has 5 outputs"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0; expected a number > 0"),
    ],
)
def test_wrong_inputs_are_refused_by_name(change, message):
    inputs = dict(zip(("student", "teacher", "center"), random_inputs())) | TEMPERATURES | change
    with pytest.raises(ValueError, match=message):
        dino_loss(**inputs)


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_a_momentum_out_of_range_is_refused(momentum):
    _, teacher, center = random_inputs()
    with pytest.raises(ValueError, match=r"momentum is .*; expected a number in \[0, 1\]"):
        next_center(teacher, center, momentum=momentum)
