"""The information loss at distributions whose value is known, the alignment of crops, several processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses.pretext.iic import align_cells, information_loss, joint_distribution
from tests.modeling.processes import run_processes


def one_hot(ids: torch.Tensor, clusters: int) -> torch.Tensor:
    """(N, h, w) int64 to (N, K, h, w)."""
    return F.one_hot(ids, clusters).movedim(-1, 1).double()


def everywhere(ids: torch.Tensor) -> torch.Tensor:
    return torch.ones(ids.shape)


def test_equal_balanced_views_have_minus_ln_k_and_independent_ones_zero():
    ids = torch.arange(8).repeat(6).view(6, 2, 4)
    same = joint_distribution(one_hot(ids, 8), one_hot(ids, 8), everywhere(ids))
    assert information_loss(same) == pytest.approx(-math.log(8), abs=1e-4)
    a, b = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    independent = joint_distribution(one_hot(a[None], 8), one_hot(b[None], 8), torch.ones(1, 8, 8))
    assert information_loss(independent) == pytest.approx(0, abs=1e-4)
    one = torch.zeros_like(ids)
    assert information_loss(joint_distribution(one_hot(one, 8), one_hot(one, 8), everywhere(one))) == pytest.approx(0, abs=1e-4)


def test_the_joint_distribution_is_its_definition_and_leaves_out_what_is_masked():
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.rand(3, 4, 2, 2, generator=generator, dtype=torch.float64).softmax(1) for _ in range(2))
    mask = (torch.rand(3, 2, 2, generator=generator) > 0.4).double()
    rows = [(z1[n, :, y, x], z2[n, :, y, x]) for n in range(3) for y in range(2) for x in range(2) if mask[n, y, x]]
    expected = sum(torch.outer(a, b) for a, b in rows) / len(rows)
    torch.testing.assert_close(joint_distribution(z1, z2, mask), (expected + expected.T) / 2)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -1), (-1, 1)])
def test_a_displacement_meets_the_neighbouring_cells(shift):
    ids = torch.arange(16).view(1, 4, 4)
    moved = ids.roll(shift, (1, 2))
    joint = joint_distribution(one_hot(ids, 16), one_hot(moved, 16), everywhere(ids), shift)
    assert torch.equal(joint, torch.diag(joint.diagonal())) and joint.sum() == pytest.approx(1)


def test_gradients_are_finite_at_exact_zeros():
    z = one_hot(torch.zeros(2, 3, 3, dtype=torch.int64), 5).requires_grad_()
    information_loss(joint_distribution(z, z.detach(), torch.ones(2, 3, 3))).backward()
    assert z.grad.isfinite().all()
    empty = joint_distribution(z, z.detach(), torch.zeros(2, 3, 3))
    assert information_loss(empty).isfinite()


def share(rank: int) -> dict[str, torch.Tensor]:
    z1, z2 = (torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    z1 = z1[2 * rank : 2 * rank + 2].requires_grad_()
    loss = information_loss(joint_distribution(z1.softmax(1), z2[2 * rank : 2 * rank + 2].softmax(1), torch.ones(2, 2, 2)))
    loss.backward()
    return {"loss": loss.detach(), "grad": z1.grad}


def test_two_processes_are_one_batch(tmp_path):
    shares = run_processes(share, 2, tmp_path)
    z1, z2 = (torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    z1.requires_grad_()
    loss = information_loss(joint_distribution(z1.softmax(1), z2.softmax(1), torch.ones(4, 2, 2)))
    loss.backward()
    for found in shares:
        torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.cat([found["grad"] for found in shares]) / 2, z1.grad, rtol=1e-9, atol=1e-12)


def coordinates(box: torch.Tensor, size: int) -> torch.Tensor:
    """(1, 2, size, size): x and y in the image of the centres of a crop's cells."""
    steps = (torch.arange(size) + 0.5) / size
    x, y = (box[axis] + steps * (box[axis + 2] - box[axis]) for axis in (0, 1))
    return torch.stack([x[None].expand(size, -1), y[:, None].expand(-1, size)])[None]


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_aligned_maps_show_the_places_of_the_other_crop(flips):
    boxes = [torch.tensor([10.0, 20, 74, 84]), torch.tensor([26.0, 4, 90, 68])]
    boxes = [box[[2, 1, 0, 3]] if flip else box for box, flip in zip(boxes, flips)]
    maps = [coordinates(box, 8) for box in boxes]
    aligned, inside = align_cells(maps[1], boxes[1][None], boxes[0][None])
    # Between the centres of cells a bilinear map of coordinates is exact.
    assert inside.sum() == 6 * 6
    torch.testing.assert_close(aligned[:, :, inside[0]], maps[0][:, :, inside[0]])
