"""The benchmark of the loss: all implementations compute the same loss, and memory is that of a process of its own."""

import json

import pytest
import torch
from loss import OURS, PEER, PRODUCTS, PRODUCTS_IN_PLACE, LossProblem, compare_losses, describe_losses, functions, has_peer, peak_memory


@pytest.mark.parametrize("variant", ["b", "s"])
def test_every_installed_loss_has_the_same_gradients(variant):
    found = functions(LossProblem(variant, 3, 4, 8, drawn=True))
    assert (PEER in found) == has_peer()
    expected = found[OURS]()
    for name in {PEER} & set(found):
        for gradient, other in zip(found[name](), expected, strict=True):
            assert torch.allclose(gradient, other, atol=1e-6)


def test_ids_give_every_row_a_positive_unless_they_are_sampled():
    problem = LossProblem("b", 32, 8, 4, peer=False)
    rows = [(gradient != 0).any(-1).float().mean() for gradient in functions(problem)[OURS]()]
    assert rows == [1, 1]
    rows = [(gradient != 0).any(-1).float().mean() for gradient in functions(problem._replace(drawn=True))[OURS]()]
    assert all(0.5 < share < 0.8 for share in rows)


def test_a_share_of_several_processes_sees_more_negatives():
    problem = LossProblem("b", 3, 4, 8, processes=2)
    shared, alone = (functions(problem._replace(processes=count))[OURS]()[0] for count in (2, 1))
    assert list(functions(problem)) == [OURS]
    assert shared.isfinite().all() and not torch.allclose(shared, alone)


def test_a_row_is_plain_values_and_its_text_names_everything():
    row = compare_losses(LossProblem("s", 2, 3, 4, peer=False), rounds=2, memory=False)
    assert json.loads(json.dumps(row)) == row
    assert list(row["ms"]) == [OURS, PRODUCTS, PRODUCTS_IN_PLACE]
    assert all(name in describe_losses(row) for name in row["ms"]) and "DetCon_S N=2 M=3 D=4 R=1" in describe_losses(row)


def test_memory_is_what_a_call_adds_and_less_than_one_matrix_of_logits():
    problem = LossProblem("b", 128, 16, 8, peer=False)
    matrix = (128 * 16) * (2 * 128 * 16) * 4 / 2**20
    assert 0 < peak_memory(problem, OURS) < matrix / 2
    with pytest.raises(KeyError):
        peak_memory(problem, "another")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures on a GPU, and there is none")
def test_a_gpu_is_measured():
    problem = LossProblem("s", 64, 16, 32, peer=False, device="cuda")
    gradients = [functions(problem._replace(device=device))[OURS]() for device in ("cuda", "cpu")]
    for found, expected in zip(*gradients, strict=True):
        assert torch.allclose(found.cpu(), expected, atol=1e-5)
    assert peak_memory(problem, OURS) > 0
