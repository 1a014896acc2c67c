"""The losses of DIM and AMDIM are their formulas, written out image by image."""

import math

import pytest
import torch

from detcon_d2.losses.pretext.dim import clipped, jsd, location_scores, nce
from tests.modeling.processes import run_processes


def embeddings(images: int = 3, locations: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return make(images, 5), make(images, locations, 5)


def test_both_losses_are_the_formulas_written_out():
    source, local = embeddings()
    terms, negatives, positives = [], [], []
    for i in range(3):
        others = [source[i] @ local[j, m] for j in range(3) if j != i for m in range(4)]
        negatives += [math.log1p(math.exp(-u)) + u - math.log(2) for u in others]
        for k in range(4):
            own = source[i] @ local[i, k]
            positives.append(math.log(2) - math.log1p(math.exp(-own)))
            terms.append(-math.log(math.exp(own) / (math.exp(own) + sum(math.exp(u) for u in others))))
    scores = location_scores(source, local)
    torch.testing.assert_close(nce(*scores), torch.tensor(terms, dtype=torch.float64).mean())
    expected = torch.tensor(negatives, dtype=torch.float64).mean() - torch.tensor(positives, dtype=torch.float64).mean()
    torch.testing.assert_close(jsd(*scores), expected)


def test_zero_scores():
    source, local = embeddings()
    scores = location_scores(0 * source, local)
    assert nce(*scores) == pytest.approx(math.log(1 + 2 * 4)) and jsd(*scores) == pytest.approx(0, abs=1e-12)


def test_clipping_is_soft_and_keeps_what_is_left_out():
    scores = torch.tensor([-torch.inf, -1e9, 0.0, 0.1, 5.0, 1e9], requires_grad=True)
    found = clipped(scores, 20.0)
    assert found[0] == -torch.inf and found[1] == -20 and found[-1] == 20
    assert found[2:5].tolist() == pytest.approx([0, 20 * math.tanh(0.005), 20 * math.tanh(0.25)])
    found[1:].sum().backward()
    assert scores.grad.isfinite().all()


def test_gradients():
    source, local = (x.requires_grad_() for x in embeddings())
    for loss in (nce, jsd):
        assert torch.autograd.gradcheck(lambda a, b, loss=loss: loss(*location_scores(a, b)), (source, local))

    def limited(a, b):
        own, others = location_scores(a, b)
        return nce(clipped(own, 2.0), clipped(others, 2.0))

    assert torch.autograd.gradcheck(limited, (source, local))


def of_a_share(rank: int) -> list[torch.Tensor]:
    source, local = embeddings(4)
    source, local = source[2 * rank : 2 * rank + 2].requires_grad_(), local[2 * rank : 2 * rank + 2].requires_grad_()
    found = [loss(*location_scores(source, local)) for loss in (nce, jsd)]
    sum(found).backward()
    return [torch.stack(found).detach(), source.grad, local.grad]


def test_two_processes_are_one_batch(tmp_path):
    shares = run_processes(of_a_share, 2, tmp_path)
    source, local = (x.requires_grad_() for x in embeddings(4))
    expected = [loss(*location_scores(source, local)) for loss in (nce, jsd)]
    sum(expected).backward()
    torch.testing.assert_close((shares[0][0] + shares[1][0]) / 2, torch.stack(expected).detach())
    for number, whole in ((1, source.grad), (2, local.grad)):
        torch.testing.assert_close(torch.cat([share[number] for share in shares]) / 2, whole)


def test_other_shapes_are_refused():
    source, local = embeddings()
    with pytest.raises(ValueError, match=r"expected \(N, D\) and \(N, L, D\)"):
        location_scores(source, local[:2])
