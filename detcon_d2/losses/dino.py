"""DINO's loss and the centre of its teacher's outputs.

Letters: N images of this process, K outputs of the heads, V crops of each image.
"""

import torch

from detcon_d2.losses.checks import check_embeddings, check_positive, promote
from detcon_d2.losses.cross_view import cross_view_entropy
from detcon_d2.losses.gather import gather_processes


def dino_loss(
    student: torch.Tensor, teacher: torch.Tensor, center: torch.Tensor, *, student_temperature: float, teacher_temperature: float
) -> torch.Tensor:
    """Predict the teacher's distribution of each of two large crops from every other crop (Caron et al. 2021; ``main_dino.py``).

    ::

        P[a] = softmax((teacher[a] - center) / teacher_temperature), without gradient
        loss = mean over the 2 * (V - 1) pairs a != v of mean over N of -sum_k P[a] * log softmax(student[v] / student_temperature)

    Nothing is gathered: the mean of the losses over processes with equal batches is the loss of the whole batch.

    Args:
        student: (V, N, K) floating, V >= 2, outputs of the student's head; the teacher's two crops come first.
        teacher: (2, N, K) floating, outputs of the teacher's head.
        center: (K,) floating.
        student_temperature, teacher_temperature: > 0.

    Returns:
        Scalar >= 0, float64 if an input is float64, otherwise float32; computed in that precision, under autocast too.

    Raises:
        ValueError: for shapes, dtypes or numbers other than these.
    """
    check_embeddings("(V, N, K)", student=student)
    if len(student) < 2:
        raise ValueError(f"student has shape {tuple(student.shape)}; expected (V, N, K) with at least 2 crops.")
    check_embeddings("(V, N, K)", **{"the first two crops of student": student[:2], "teacher": teacher})
    _check_center(center, teacher)
    check_positive(student_temperature=student_temperature, teacher_temperature=teacher_temperature)
    with torch.autocast(student.device.type, enabled=False):
        student, teacher, center = promote(student, teacher.detach(), center.detach())
        labels = ((teacher - center) / teacher_temperature).softmax(-1)
        return cross_view_entropy((student / student_temperature).unbind(0), labels.unbind(0))


@torch.no_grad()
def next_center(teacher: torch.Tensor, center: torch.Tensor, *, momentum: float = 0.9) -> torch.Tensor:
    """``momentum * center + (1 - momentum) * mean of the teacher's outputs`` over crops, images and processes.

    :func:`dino_loss` of a step uses the centre from before that step. Every process must have the same number of images.

    Args:
        teacher: (2, N, K) floating, outputs of the teacher's head.
        center: (K,) floating.
        momentum: in [0, 1].

    Returns:
        (K,), float64 if an input is float64, otherwise float32; the same in all processes.

    Raises:
        ValueError: for shapes, dtypes or numbers other than these.
    """
    check_embeddings("(2, N, K)", teacher=teacher)
    _check_center(center, teacher)
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}; expected a number in [0, 1].")
    teacher, center = promote(teacher, center)
    return momentum * center + (1 - momentum) * gather_processes(teacher.mean(dim=(0, 1))).mean(0)


def _check_center(center: torch.Tensor, teacher: torch.Tensor) -> None:
    check_embeddings("(K,)", center=center)
    if len(center) != teacher.shape[-1]:
        raise ValueError(
            f"center has shape {tuple(center.shape)}; expected ({teacher.shape[-1]},), as teacher has {teacher.shape[-1]} outputs."
        )
