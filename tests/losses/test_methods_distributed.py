"""The losses of other methods, the queue and the centre over real gloo processes: oracle, and one process with the whole batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from detcon_d2.losses import (
    DenseCLEmbeddings,
    byol_loss,
    densecl_losses,
    densecl_match,
    dino_loss,
    info_nce_logits,
    info_nce_loss,
    next_center,
    nt_xent_loss,
    pixpro_loss,
    sinkhorn_codes,
    swav_loss,
)
from detcon_d2.modeling.queue import FeatureQueue
from tests.losses.cases import Case, assert_close, read_methods
from tests.losses.test_densecl import embed
from tests.losses.test_swav import released_step
from tests.modeling.processes import run_processes

WORLD2 = {
    "simclr": "world2_n3_d8",
    "moco": "world2_n3_d6_k12",
    "swav": "world2_n3_k5",
    "dino": "world2_n3_k8_four_crops",
    "densecl": "world2_n2_c6_s3_k8",
}


def simclr_oracle(rank, case):
    z = case.tensor(f"z_rank{rank}", grad=True)
    loss = nt_xent_loss(*z.chunk(2), temperature=float(case["temperature"]))
    loss.backward()
    return [(loss, case["loss_per_rank"][rank]), (z.grad, case[f"grad_z_rank{rank}"])]


def moco_oracle(rank, case):
    queue = FeatureQueue(int(case["dim"]), int(case["K"])).double()
    queue.features.copy_(case.tensor("queue_0"))
    weight, pairs = case.tensor("Wq_0", grad=True), []
    for step in range(int(case["steps"])):
        found = case.part(f"step{step}/rank{rank}")
        query, key = found.tensor("im_q") @ weight.T, found.tensor("im_k") @ found.tensor("Wk_after").T
        logits = info_nce_logits(query, key, queue.features, temperature=float(case["temperature"]))
        loss = info_nce_loss(query, key, queue.features, temperature=float(case["temperature"]))
        queue.enqueue(key)
        loss.backward()
        pairs += [(logits, found["logits"]), (loss, found["loss"]), (weight.grad, found["grad_Wq"])]
        pairs += [(queue.features.clone(), found["queue_after"]), (queue.pointer.view(1).clone(), found["queue_ptr_after"])]
        weight = case.tensor(f"step{step}/Wq_after", grad=True)
    return pairs


def swav_oracle(rank, case):
    options = {name: case[name].item() for name in ("epsilon", "sinkhorn_iterations", "temperature")}
    prototypes, found = case.tensor("step0/prototypes_normalised"), case.part(f"step0/rank{rank}")
    loss, projections, codes = released_step(found, prototypes, None, options, torch.float64)
    loss.backward()
    pairs = [(loss, found["loss"]), (projections.grad, found["grad_projections"]), (prototypes.grad, found["grad_prototypes"])]
    return pairs + [(codes[crop], found[f"codes_crop{crop}"]) for crop in (0, 1)]


def dino_oracle(rank, case):
    center, pairs = case.tensor("center_0").flatten(), []
    for step, epoch in enumerate(case["epochs"]):
        found = case.part(f"step{step}/rank{rank}")
        student, teacher = found.tensor("student", grad=True), found.tensor("teacher").unflatten(0, (2, -1))
        temperatures = {
            "student_temperature": float(case["student_temp"]),
            "teacher_temperature": float(case["teacher_temp_schedule"][epoch]),
        }
        loss = dino_loss(student.unflatten(0, (int(case["ncrops"]), -1)), teacher, center, **temperatures)
        loss.backward()
        center = next_center(teacher, center, momentum=float(case["center_momentum"]))
        pairs += [(loss, found["loss"]), (student.grad, found["grad_student"]), (center, found["center_after"].ravel())]
    return pairs


def densecl_oracle(rank, case):
    queues, neck_q, pairs = [], case.part("neck_0"), []
    for name in ("queue_0", "queue2_0"):
        queues.append(FeatureQueue(*case[name].shape).double())
        queues[-1].features.copy_(case.tensor(name))
    options = {"temperature": float(case["temperature"]), "dense_weight": float(case["loss_lambda"])}
    for step in range(int(case["steps"])):
        found, neck_k = case.part(f"step{step}/rank{rank}"), case.part(f"step{step}/neck_k")
        features, other = found.tensor("feat_q", grad=True), found.tensor("feat_k")
        query, key = (embed(x, {name: neck.tensor(name) for name in neck}) for x, neck in ((features, neck_q), (other, neck_k)))
        losses = densecl_losses(query, key, densecl_match(features, other), *(queue.features for queue in queues), **options)
        for queue, keys in zip(queues, (key.image, key.cells.mean(dim=(2, 3)))):
            queue.enqueue(keys)
        sum(losses).backward()
        pairs += [(losses[0], found["loss_single_weighted"]), (losses[1], found["loss_dense_weighted"])]
        pairs += [(features.grad, found["grad_feat_q"])]
        pairs += [(queue.features.clone(), found[f"{name}_after"]) for queue, name in zip(queues, ("queue", "queue2"))]
        pairs += [(queue.pointer.clone(), found[f"{name}_after"]) for queue, name in zip(queues, ("ptr", "ptr2"))]
        neck_q = case.part(f"step{step}/neck_q_after_sgd")
    return pairs


ORACLES = {"simclr": simclr_oracle, "moco": moco_oracle, "swav": swav_oracle, "dino": dino_oracle, "densecl": densecl_oracle}


def simclr(a, b, c, d):
    return nt_xent_loss(a, b, temperature=0.1)


def byol(a, b, c, d):
    return byol_loss(a, b, c, d)


def swav(a, b, c, d):
    return swav_loss([a, b, c, d], [sinkhorn_codes(a.tanh()), sinkhorn_codes(b.tanh())])


def dino(a, b, c, d):
    return dino_loss(torch.stack([a, b, c]), torch.stack([c, d]), torch.ones_like(a[0]), student_temperature=0.1, teacher_temperature=0.04)


def moco(a, b, c, d):
    return info_nce_loss(a, b, torch.eye(a.shape[1], dtype=a.dtype), temperature=0.2)


def pixpro(a, b, c, d):
    boxes = [torch.cat([x[:, :2].sigmoid() / 3, 1 - x[:, 2:4].sigmoid() / 3], dim=1).detach() for x in (c, d)]
    return pixpro_loss(*(F.normalize(x.view(-1, 2, 2, 2), dim=1) for x in (a, b)), *boxes)


def densecl(a, b, c, d):
    (cells_a, cells_b), queue = (x.view(-1, 2, 2, 2) for x in (a, b)), torch.eye(8, dtype=a.dtype)
    match = densecl_match(cells_a, cells_b)
    return sum(densecl_losses(DenseCLEmbeddings(c, cells_a), DenseCLEmbeddings(d, cells_b), match, queue, queue[:2, :4]))


LOSSES = {function.__name__: function for function in (simclr, byol, swav, dino, moco, pixpro, densecl)}


def run_loss(name, embeddings):
    """Loss, and its gradients to four embeddings (N, 8)."""
    leaves = [x.clone().requires_grad_() for x in embeddings]
    loss = LOSSES[name](*leaves)
    loss.backward()
    return {"loss": loss.detach(), "grads": [torch.zeros_like(x) if x.grad is None else x.grad for x in leaves]}


def run_state(embeddings):
    """What methods keep between steps: centre and queue, after two steps."""
    center, queue = torch.zeros(8, dtype=torch.float64), FeatureQueue(8, 48).double()
    queue.features.zero_()
    for first, second in (embeddings[:2], embeddings[2:]):
        center = next_center(torch.stack([first, second]), center)
        queue.enqueue(first)
    return {"center": center, "features": queue.features, "pointer": queue.pointer}


class Siamese(nn.Module):
    """Two views through one layer, so that DistributedDataParallel sees one forward pass."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 32).view(4, 8).sin())
            self.layer.bias.zero_()

    def forward(self, x1, x2):
        return self.layer(x1), self.layer(x2)


def run_model(model, embeddings):
    """Parameter gradients of SimCLR's and SwAV's losses; both need the other processes' embeddings."""
    z1, z2 = model(*embeddings[:2])
    scores = [F.normalize(z, dim=1) for z in (z1, z2)]
    (nt_xent_loss(z1, z2, temperature=0.1) + swav_loss(scores, [sinkhorn_codes(x) for x in scores])).backward()
    return [parameter.grad for parameter in model.parameters()]


def refused(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def job(rank, embeddings, archive):
    """In each process: its part of every loss, of the state and of a model; the errors; with two processes the oracle's cases."""
    share = [x[rank] for x in embeddings]
    found = {name: run_loss(name, share) for name in LOSSES}
    found |= {"state": run_state(share), "ddp": run_model(DistributedDataParallel(Siamese()), share)}
    unequal = torch.ones(2 + rank, 8)
    found["unequal batches"] = [refused(nt_xent_loss, unequal, unequal, temperature=0.1), refused(FeatureQueue(8, 48).enqueue, unequal)]
    found["unequal graphs"] = refused(nt_xent_loss, *[torch.ones(2, 8, requires_grad=rank == 0)] * 2, temperature=0.1)
    found["queue size"] = refused(FeatureQueue(8, 9).enqueue, torch.ones(3, 8))
    if archive:
        methods = read_methods(archive)
        found["oracle"] = {}
        for name, function in ORACLES.items():
            pairs = function(rank, Case(methods[name][WORLD2[name]]))
            found["oracle"][name] = [(x.detach(), torch.as_tensor(expected)) for x, expected in pairs]
    return found


@pytest.fixture(scope="module", params=[2, 4])
def runs(request, fixtures_dir, tmp_path_factory):
    """(number of processes, four embeddings (R, 3, 8), one result per process)."""
    generator = torch.Generator().manual_seed(request.param)
    embeddings = [torch.randn(request.param, 3, 8, generator=generator, dtype=torch.float64) for _ in range(4)]
    archive = fixtures_dir / "methods_small.npz" if request.param == 2 else None
    return request.param, embeddings, run_processes(job, request.param, tmp_path_factory.mktemp("gloo"), embeddings, archive)


@pytest.mark.parametrize("method", ORACLES)
@pytest.mark.parametrize("runs", [2], indirect=True)
def test_two_processes_equal_the_released_code(runs, method):
    for result in runs[2]:
        assert len(result["oracle"][method]) >= 2
        for found, expected in result["oracle"][method]:
            assert_close(found, expected.numpy(), 1e-9)


def test_the_extract_has_every_case_of_several_processes_unchanged(fixtures_dir, shared_dir):
    small, whole = read_methods(fixtures_dir / "methods_small.npz"), read_methods(shared_dir / "oracles" / "methods_oracle.npz")
    found = {(method, case) for method, cases in whole.items() for case in cases if case.startswith("world2_")}
    assert found == set(WORLD2.items())
    for method, cases in small.items():
        for case, arrays in cases.items():
            assert arrays.keys() == whole[method][case].keys()
            assert all((x == whole[method][case][name]).all() for name, x in arrays.items())


@pytest.mark.parametrize("method", LOSSES)
def test_mean_over_processes_equals_one_process_with_the_whole_batch(runs, method):
    processes, embeddings, results = runs
    whole = run_loss(method, [x.flatten(0, 1) for x in embeddings])
    assert_close(torch.stack([result[method]["loss"] for result in results]).mean(), whole["loss"].numpy(), 1e-9)
    for index, expected in enumerate(whole["grads"]):
        # Averaging, as DistributedDataParallel does it, divides each process's gradient by their number.
        assert_close(torch.cat([result[method]["grads"][index] for result in results]) / processes, expected.numpy(), 1e-9)


def test_centre_and_queue_are_those_of_the_whole_batch_in_every_process(runs):
    _, embeddings, results = runs
    whole = run_state([x.flatten(0, 1) for x in embeddings])
    assert whole["features"].any()
    for result in results:
        for name, expected in whole.items():
            assert_close(result["state"][name], expected.numpy(), 1e-12)
            assert torch.equal(result["state"][name], results[0]["state"][name])


def test_parameter_gradients_under_ddp_equal_one_process_with_the_whole_batch(runs):
    _, embeddings, results = runs
    whole = run_model(Siamese(), [x.flatten(0, 1) for x in embeddings])
    for result in results:
        for found, expected in zip(result["ddp"], whole, strict=True):
            assert_close(found, expected.numpy(), 1e-9)


def test_unequal_batches_and_graphs_are_refused_in_every_process(runs):
    processes, _, results = runs
    assert len(results) == processes
    for result in results:
        for message in result["unequal batches"]:
            assert "same number of images" in message and "rank 1: (" in message
        assert "rank 0: (2, 2, 8), with grad; rank 1: (2, 2, 8)" in result["unequal graphs"]


def test_a_queue_that_the_global_batch_does_not_divide_is_refused_in_every_process(runs):
    processes, _, results = runs
    for result in results:
        assert f"The queue has 9 features, which is not a multiple of the global batch of {3 * processes}" in result["queue size"]
