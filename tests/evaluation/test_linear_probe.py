"""Linear probes: the protocols' optimizers and schedules, a plain loop as reference, and how a learning rate is chosen."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR

from detcon_d2.evaluation.linear_probe import PROTOCOLS, Protocol, evaluate_probe, probe_accuracy, train_probe

# Name: published rate at 256, epochs, batch, weight decay, Nesterov.
PUBLISHED = {
    "moco": (30, 100, 256, 0, False),
    "swav": (0.3, 100, 256, 1e-6, False),
    "dino": (0.3, 100, 256, 0, False),
    "byol": (0.2, 80, 256, 0, True),
    "simclr": (0.1, 90, 4096, 1e-6, True),
}


def parameter():
    return nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimizers_are_the_published_ones(name):
    protocol, rate = PROTOCOLS[name], PUBLISHED[name][0]
    optimizer = protocol.build_optimizer([parameter()], 0.5)
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.SGD) and group["momentum"] == 0.9 and group["lr"] == 0.5
    assert (protocol.rate, protocol.epochs, protocol.batch_size, group["weight_decay"], group["nesterov"]) == PUBLISHED[name]
    assert protocol.rates() == sorted({0.1, 0.3, 1, 3, 10, 30, rate})


def test_the_slides_classifiers_have_one_constant_rate_each():
    adam, sgd = PROTOCOLS["slides_adam"], PROTOCOLS["slides_sgd"]
    assert isinstance(adam.build_optimizer([parameter()], 1e-3), torch.optim.Adam)
    assert isinstance(sgd.build_optimizer([parameter()], 0.1), torch.optim.SGD)
    assert (adam.rates(), sgd.rates(), adam.epochs, sgd.epochs) == ([1e-3], [0.1], 20, 20)
    assert {protocol.factor(step, 3) for protocol in (adam, sgd) for step in range(60)} == {1.0}


REFERENCES = {
    "moco": lambda optimizer, steps: (MultiStepLR(optimizer, [60, 80]), steps),
    "swav": lambda optimizer, steps: (CosineAnnealingLR(optimizer, 100), steps),
    "dino": lambda optimizer, steps: (CosineAnnealingLR(optimizer, 100), steps),
    "byol": lambda optimizer, steps: (CosineAnnealingLR(optimizer, 80 * steps), 1),
    "simclr": lambda optimizer, steps: (CosineAnnealingLR(optimizer, 90 * steps), 1),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_schedules_are_those_of_torch_per_epoch_or_step(name):
    protocol, steps = PROTOCOLS[name], 3
    found, expected = (torch.optim.SGD([parameter()], lr=2.0) for _ in range(2))
    scheduler = LambdaLR(found, lambda step: protocol.factor(step, steps))
    reference, every = REFERENCES[name](expected, steps)
    for step in range(protocol.epochs * steps):
        assert math.isclose(found.param_groups[0]["lr"], expected.param_groups[0]["lr"], rel_tol=1e-9, abs_tol=1e-12), step
        found.step(), expected.step(), scheduler.step()
        if (step + 1) % every == 0:
            reference.step()


def clusters(count=300, classes=3, spread=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.eye(classes, 8)[labels] * 3 + spread * torch.randn(count, 8, generator=generator), labels


def test_training_is_a_plain_loop_with_the_rate_scaled_to_the_batch():
    features, labels = clusters()
    protocol = Protocol(0.3, 5, "cosine_by_epoch", 128, 1e-3)
    found = train_probe(features, labels, 3, protocol, 0.4)
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(8, 3)
    model.weight.data = torch.empty(3, 8).normal_(0, 0.01, generator=generator)
    model.bias.data = torch.zeros(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.4 * 128 / 256, momentum=0.9, weight_decay=1e-3)
    for epoch in range(5):
        optimizer.param_groups[0]["lr"] = 0.2 * 0.5 * (1 + math.cos(math.pi * epoch / 5))
        order = torch.randperm(300, generator=generator)
        for start in (0, 128, 256):
            rows = order[start : start + 128]
            optimizer.zero_grad()
            F.cross_entropy(model(features[rows]), labels[rows]).backward()
            optimizer.step()
    torch.testing.assert_close(found.weight, model.weight)
    torch.testing.assert_close(found.bias, model.bias)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_separates_what_is_linearly_separable(name):
    found = evaluate_probe(clusters(), clusters(seed=1), 3, PROTOCOLS[name], [PROTOCOLS[name].rate])
    assert found["top1"] > 95 and found["train_top1"] > 95 and found["top5"] == 100 and found["held_out"] == []


def test_accuracy_counts_the_five_best_classes_and_no_image_with_infinite_logits():
    probe = nn.Linear(7, 7, bias=False)
    probe.weight.data = torch.eye(7)
    ranked = torch.arange(7.0, 0, -1).repeat(4, 1)
    assert probe_accuracy(probe, ranked, torch.tensor([0, 1, 4, 5])) == (25.0, 75.0)
    ranked[0, 6] = float("nan")
    assert probe_accuracy(probe, ranked, torch.tensor([0, 1, 4, 5])) == (0.0, 50.0)


def test_the_rate_is_chosen_on_a_tenth_of_the_training_images_and_never_by_the_test_images():
    train, (features, labels) = clusters(spread=2.0), clusters(spread=2.0, seed=1)
    protocol, rates = Protocol(0.1, 4, "constant"), [1e30, 1e-6, 0.3]
    found = evaluate_probe(train, (features, labels), 3, protocol, rates)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    kept, held = order[:270], order[270:]
    for rate, accuracy in found["held_out"]:
        probe = train_probe(train[0][kept], train[1][kept], 3, protocol, rate)
        assert accuracy == probe_accuracy(probe, train[0][held], train[1][held])[0]
    assert [rate for rate, _ in found["held_out"]] == sorted(rates) and found["rate"] == 0.3
    assert found["top1"] == probe_accuracy(train_probe(*train, 3, protocol, 0.3), features, labels)[0]
    shuffled = evaluate_probe(train, (features, labels.roll(1)), 3, protocol, rates)
    assert shuffled["held_out"] == found["held_out"] and shuffled["rate"] == found["rate"] and shuffled["top1"] < found["top1"]
