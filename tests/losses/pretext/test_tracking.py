"""The loss of tracking is its definition, an exact pointer has none, and a pointer without information knows how frequent colours are."""

import math

import pytest
import torch

from detcon_d2.losses.pretext.tracking import copied_colors, pointer, tracking_loss


def embeddings(clips: int = 2, cells: int = 4, references: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(clips, count, 3, generator=generator, dtype=torch.float64) for count in (cells, references))


TARGET = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 4]])
REFERENCES = torch.tensor([[0, 0, 1, 2, 2, 2], [1, 0, 3, 3, 1, 0]])  # colour 4 is in none


def test_the_loss_is_its_definition_cell_by_cell():
    target, references = embeddings()
    terms = []
    for n in range(2):
        for j in range(4):
            weights = [math.exp(float(target[n, j] @ references[n, i]) / 0.5) for i in range(6)]
            right = [weight for i, weight in enumerate(weights) if REFERENCES[n, i] == TARGET[n, j]]
            terms.append(-math.log(sum(right) / sum(weights)) if right else 0.0)
    found = tracking_loss(pointer(target, references, temperature=0.5), TARGET, REFERENCES)
    assert len(terms) == 8 and terms[-1] == 0 and found == pytest.approx(sum(terms) / 8)


def test_copied_colours_are_the_mean_of_those_pointed_to():
    log_pointer = pointer(*embeddings())
    found = copied_colors(log_pointer, REFERENCES, 5)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 4, dtype=torch.float64))
    torch.testing.assert_close(found[1, 2, 3], log_pointer[1, 2, [2, 3]].exp().sum())
    of_the_target = found.gather(2, TARGET[:, :, None])[..., 0]
    terms = torch.where(of_the_target > 0, -of_the_target.log(), torch.zeros(()))
    torch.testing.assert_close(tracking_loss(log_pointer, TARGET, REFERENCES), terms.mean())


def test_without_information_the_loss_is_that_of_the_frequency_of_colours():
    target, references = embeddings()
    found = tracking_loss(pointer(0 * target, references), TARGET, REFERENCES)
    shares = [2 / 6, 1 / 6, 3 / 6, 2 / 6, 2 / 6, 2 / 6, 2 / 6, 1]
    assert found == pytest.approx(-sum(map(math.log, shares)) / 8)


def test_pointing_to_the_right_colours_has_no_loss_and_to_others_a_finite_gradient():
    places = 60 * torch.eye(6)[None]
    colors = torch.arange(6)[None]
    assert tracking_loss(pointer(places, places), colors, colors) == 0
    target = places.clone().requires_grad_()
    loss = tracking_loss(pointer(target, places.roll(1, 1)), colors, colors)
    loss.backward()
    assert loss > 1000 and target.grad.isfinite().all() and target.grad.any()


def test_cells_whose_colour_cannot_be_copied_have_no_gradient():
    target, references = (x.requires_grad_() for x in embeddings())
    tracking_loss(pointer(target, references), TARGET, REFERENCES).backward()
    assert target.grad[1, 3].abs().max() < 1e-12 and target.grad.flatten(0, 1)[:7].any(1).all()
    assert torch.autograd.gradcheck(lambda *x: tracking_loss(pointer(*x), TARGET, REFERENCES), (target, references))


def test_half_precision_is_computed_in_float32_under_autocast_too():
    target, references = (x.bfloat16() for x in embeddings())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pointer(target, references)
    torch.testing.assert_close(found, pointer(target.float(), references.float()))


@pytest.mark.parametrize(("target", "references"), [((2, 4, 3), (3, 6, 3)), ((2, 4, 3), (2, 6, 4)), ((2, 3), (2, 6, 3))])
def test_other_shapes_are_refused(target, references):
    with pytest.raises(ValueError, match=r"expected \(N, P, D\) and \(N, Q, D\)"):
        pointer(torch.zeros(target), torch.zeros(references))
