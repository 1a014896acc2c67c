"""The triplet loss: known choices of negatives, definition, several processes."""

import math

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses.pretext.triplet import triplet_distances, triplet_loss
from tests.modeling.processes import run_processes


def at(*degrees: float) -> torch.Tensor:
    """Points on the circle: (V, 2)."""
    angles = torch.tensor(degrees, dtype=torch.float64) * math.pi / 180
    return torch.stack([angles.cos(), angles.sin()], 1)


def squared(degrees: float) -> float:
    return 2 - 2 * math.cos(math.radians(degrees))


def test_the_nearest_farther_negative_is_chosen_and_else_the_farthest():
    # Anchor 0 with positive 30: negatives at 10 (nearer), 50 and 90.
    z = torch.stack([at(0, 30), at(10, 50), at(90, 90)])
    positive, negative = triplet_distances(z)
    assert positive[0, 0, 0] == pytest.approx(squared(30)) and negative[0, 0, 0] == pytest.approx(squared(50))
    # Anchor 10 with positive 50, at 40 degrees: 0, 30 are nearer, 90 is the only farther one.
    assert negative[1, 0, 0] == pytest.approx(squared(80))
    # Positive at 180 degrees: nothing is farther, so the farthest negative is taken.
    _, negative = triplet_distances(torch.stack([at(0, 180), at(20, 100)]))
    assert negative[0, 0, 0] == pytest.approx(squared(100))


def random_views(images: int = 4, views: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, views, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_its_definition_pair_by_pair():
    z = F.normalize(random_views(), dim=2)
    total, pairs = 0.0, 0
    for i in range(4):
        for a in range(3):
            for p in set(range(3)) - {a}:
                d = (z[i, a] - z[i, p]).square().sum()
                others = [(z[i, a] - z[j, v]).square().sum() for j in range(4) if j != i for v in range(3)]
                farther = [one for one in others if one > d]
                total += max(0, d - (min(farther) if farther else max(others)) + 0.5)
                pairs += 1
    torch.testing.assert_close(triplet_loss(5 * random_views()), total / pairs, rtol=1e-9, atol=0)


def test_equal_rows_cost_the_margin():
    assert triplet_loss(torch.ones(3, 2, 4), margin=0.7) == pytest.approx(0.7)


def share(rank: int) -> dict[str, torch.Tensor]:
    z = random_views()[2 * rank : 2 * rank + 2].requires_grad_()
    loss = triplet_loss(z)
    loss.backward()
    return {"loss": loss.detach(), "grad": z.grad}


def test_two_processes_are_one_batch(tmp_path):
    shares = run_processes(share, 2, tmp_path)
    z = random_views().requires_grad_()
    loss = triplet_loss(z)
    loss.backward()
    torch.testing.assert_close(sum(found["loss"] for found in shares) / 2, loss.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.cat([found["grad"] for found in shares]) / 2, z.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 3, 5), (3, 1, 5)])
def test_one_image_or_one_view_is_refused(shape):
    with pytest.raises(ValueError, match="expected at least 2 of each"):
        triplet_loss(torch.ones(shape))
