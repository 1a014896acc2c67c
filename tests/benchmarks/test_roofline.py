"""The roofline counts what operators must compute and move, forward and backward, and limits each by the slower of the two."""

import pytest
import torch
from roofline import Operator, count_operators, roofline_seconds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

A, B = torch.zeros(4, 8), torch.zeros(8, 16)
ROW, LIST = torch.zeros(8), [torch.zeros(3), torch.zeros(5)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: A @ B, [("aten::mm", 2 * 4 * 8 * 16, 4 * (32 + 128 + 64))]),
        (lambda: A + ROW, [("aten::add", 0, 4 * (32 + 8 + 32))]),
        (lambda: A + ROW.expand(4, 8), [("aten::add", 0, 4 * (32 + 8 + 32))]),
        (lambda: A * A, [("aten::mul", 0, 4 * (32 + 32))]),
        (lambda: A.relu_(), [("aten::relu_", 0, 4 * (32 + 32))]),
        (lambda: A.copy_(ROW), [("aten::copy_", 0, 4 * (8 + 32))]),
        (lambda: A.zero_(), [("aten::zero_", 0, 4 * 32)]),
        (lambda: A.bfloat16(), [("aten::_to_copy", 0, 32 * (4 + 2))]),
        (lambda: torch._foreach_add_(LIST, LIST, alpha=2), [("aten::_foreach_add_", 0, 4 * (8 + 8))]),
        (lambda: torch.mm(A, B, out=B.new_empty(4, 16)), [("aten::mm", 2 * 4 * 8 * 16, 4 * (32 + 128 + 64))]),
        (lambda: (A.view(8, 4).t()[1:], torch.empty(5), A.detach()), []),
    ],
)
def test_an_operator_computes_and_moves(function, expected):
    assert count_operators(function) == [Operator(*numbers) for numbers in expected]


def test_backward_passes_are_counted_and_the_sum_is_pytorchs():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    images = torch.randn(2, 3, 8, 8)

    def step() -> None:
        network(images).sum().backward()

    with FlopCounterMode(display=False) as flops:
        step()
    operators = count_operators(step)
    assert sum(operator.flops for operator in operators) == flops.get_total_flops() > 0
    backward = next(operator for operator in operators if operator.name == "aten::convolution_backward")
    # The images need no gradient: one product as in the forward pass; it reads both maps and the weights, and writes the weights' gradient.
    assert backward == Operator(backward.name, 2 * 2 * 8 * 36 * 27, 4 * (2 * 8 * 36 + images.numel() + 2 * 8 * 27))


def test_each_operator_takes_the_longer_of_its_two_bounds():
    operators = [Operator("compute", flops=600, nbytes=10), Operator("memory", flops=0, nbytes=40)]
    assert roofline_seconds(operators, peak=100, bandwidth=20) == 6 + 2
