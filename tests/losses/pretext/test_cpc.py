"""CPC's loss: definition, no information, several processes, shapes."""

import math

import pytest
import torch

from detcon_d2.losses.pretext.cpc import cpc_loss, predicted_rows
from tests.modeling.processes import run_processes


def embeddings(images: int = 4, distances: int = 2, side: int = 4, dim: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (images, distances, side, side, dim), (images, side, side, dim)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


def test_the_loss_is_its_definition_prediction_by_prediction():
    predictions, targets = embeddings()
    rows = targets.flatten(0, 2)
    losses = []
    for n in range(4):
        for k, distance in enumerate((2, 3)):
            for y in range(4 - distance):
                for x in range(4):
                    scores = rows @ predictions[n, k, y, x]
                    losses.append(scores.logsumexp(0) - predictions[n, k, y, x] @ targets[n, y + distance, x])
    torch.testing.assert_close(cpc_loss(predictions, targets, first=2), torch.stack(losses).mean(), rtol=1e-9, atol=0)


def test_predictions_of_zero_have_the_logarithm_of_the_number_of_patches():
    predictions, targets = embeddings()
    assert cpc_loss(0 * predictions, targets, first=2) == pytest.approx(math.log(4 * 16))


def test_targets_are_the_patches_below():
    side = 5
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    grid = torch.stack([y, x], 2).double()[None]
    found = predicted_rows(grid[:, None].expand(-1, 3, -1, -1, -1), 2)
    assert [len(below) for _, below in found] == [3, 2, 1]
    for distance, (rows, below) in enumerate(found, 2):
        assert torch.equal(rows[0] + torch.tensor([distance, 0]), grid[0, below])


def share(rank: int) -> dict[str, torch.Tensor]:
    predictions, targets = (x[2 * rank : 2 * rank + 2].requires_grad_() for x in embeddings())
    loss = cpc_loss(predictions, targets, first=2)
    loss.backward()
    return {"loss": loss.detach(), "predictions": predictions.grad, "targets": targets.grad}


def test_two_processes_are_one_batch(tmp_path):
    shares = run_processes(share, 2, tmp_path)
    predictions, targets = (x.requires_grad_() for x in embeddings())
    loss = cpc_loss(predictions, targets, first=2)
    loss.backward()
    torch.testing.assert_close(sum(found["loss"] for found in shares) / 2, loss.detach(), rtol=1e-9, atol=0)
    for name, expected in (("predictions", predictions.grad), ("targets", targets.grad)):
        torch.testing.assert_close(torch.cat([found[name] for found in shares]) / 2, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("first", [0, 4])
def test_a_distance_beyond_the_grid_is_refused(first):
    with pytest.raises(ValueError, match=f"first is {first}; expected 1 to 3, as the grid has 4 rows"):
        cpc_loss(*embeddings(), first=first)
