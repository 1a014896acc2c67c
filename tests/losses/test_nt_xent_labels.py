"""The supervised contrastive loss: definition, SimCLR's as the case without shared classes, several processes."""

import pytest
import torch
from torch.nn import functional as F

from detcon_d2.losses import nt_xent_loss, sup_con_loss
from tests.modeling.processes import run_processes


def views(count: int = 6, dim: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, dim, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))


def test_the_loss_is_its_definition_row_by_row():
    z1, z2 = views()
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    rows, classes = F.normalize(torch.cat([z1, z2]), dim=1), labels.repeat(2)
    total = 0
    for i in range(12):
        others = [j for j in range(12) if j != i]
        positives = [j for j in others if classes[j] == classes[i]]
        logits = {j: rows[i] @ rows[j] / 0.2 for j in others}
        sums = torch.stack(list(logits.values())).logsumexp(0)
        total += sum(sums - logits[j] for j in positives) / len(positives)
    torch.testing.assert_close(sup_con_loss(z1, z2, labels, temperature=0.2), total / 12, rtol=1e-9, atol=0)


def test_different_labels_make_it_half_of_simclrs_sum():
    z1, z2 = views()
    found = sup_con_loss(z1, z2, torch.arange(6), temperature=0.1)
    torch.testing.assert_close(2 * found, nt_xent_loss(z1, z2, temperature=0.1), rtol=1e-9, atol=0)
    gradients = [torch.autograd.grad(loss, (z1, z2)) for loss in (2 * found, nt_xent_loss(z1, z2, temperature=0.1))]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_gradients_are_the_derivatives():
    labels = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda a, b: sup_con_loss(a, b, labels, temperature=0.5), views(3, 4))


def share(rank: int) -> dict[str, torch.Tensor]:
    z1, z2 = (z.detach()[3 * rank : 3 * rank + 3].requires_grad_() for z in views())
    loss = sup_con_loss(z1, z2, torch.tensor([0, 1, 0, 2, 1, 0])[3 * rank : 3 * rank + 3], temperature=0.2)
    loss.backward()
    return {"loss": loss.detach(), "grad": torch.stack([z1.grad, z2.grad])}


def test_two_processes_are_one_batch(tmp_path):
    shares = run_processes(share, 2, tmp_path)
    z1, z2 = views()
    loss = sup_con_loss(z1, z2, torch.tensor([0, 1, 0, 2, 1, 0]), temperature=0.2)
    loss.backward()
    torch.testing.assert_close(sum(found["loss"] for found in shares) / 2, loss.detach(), rtol=1e-9, atol=0)
    gradients = torch.cat([found["grad"] for found in shares], 1) / 2
    torch.testing.assert_close(gradients, torch.stack([z1.grad, z2.grad]), rtol=1e-9, atol=1e-12)


def test_labels_of_another_shape_or_kind_are_refused():
    z1, z2 = views()
    for labels in (torch.zeros(5, dtype=torch.int64), torch.zeros(6)):
        with pytest.raises(ValueError, match=r"labels have shape .* expected \(6,\) of integers"):
            sup_con_loss(z1, z2, labels, temperature=0.1)
