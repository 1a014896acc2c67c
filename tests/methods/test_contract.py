"""What every registered method promises; the example of docs/add_a_method.md is one of them."""

import copy
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml

from detcon_d2 import d2
from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.data import PretrainingMapper, build_pretraining_loader, load_training_records
from detcon_d2.data.mapper import Companions
from detcon_d2.engine import load_config
from detcon_d2.engine.micro_batch import MicroBatches
from detcon_d2.methods import pretraining_class, pretraining_names
from detcon_d2.views.samplers import SampleMaker
from tests.conftest import tiny_opts
from tests.data.test_mapper import assert_equal_samples, leaves
from tests.engine.runs import BASE, StopAfter, Stopped, arguments, assert_same_state, final_state, metrics, pretrainer, run
from tests.methods import example  # noqa: F401  (registers BarlowTwins)
from tests.modeling.processes import run_processes

HELD = {"MODEL__RESNETS__NORM": "FrozenBN", "DETCON__HEAD_NORM": "FrozenBN"}
TRAINED = {"MODEL__RESNETS__NORM": "BN", "DETCON__HEAD_NORM": "BN"}

# Networks and memories of a size that fits the tiny run; the queues are half full when it ends.
SMALL = {
    "DETCON__PROBE__NUM_CLASSES": 2,
    "DETCON__VIEWS__LOCAL__COUNT": 2,
    "DETCON__VIEWS__LOCAL__SIZE": 32,
    "DETCON__MOCO__QUEUE": 32,
    "DETCON__SWAV__PROTOTYPES": 8,
    "DETCON__SWAV__FREEZE_ITERS": 1,
    "DETCON__SWAV__QUEUE": 8,
    "DETCON__SWAV__QUEUE_EPOCH": 0,
    "DETCON__DINO__OUT_DIM": 32,
    "DETCON__DINO__HIDDEN_DIM": 32,
    "DETCON__DINO__BOTTLENECK_DIM": 16,
    "DETCON__DINO__FREEZE_EPOCHS": 0.1,
    "DETCON__PIXPRO__INSTANCE_WEIGHT": 1.0,
    "DETCON__PATCHES__RESIZE": 108,
    "DETCON__PATCHES__CROP": 105,
    "DETCON__PATCHES__TILE": 32,
    "DETCON__RELATIVE_POSITION__HIDDEN_DIM": 32,
    "DETCON__JIGSAW__PERMUTATIONS": "agl9",
    "DETCON__JIGSAW__TILE_DIM": 16,
    "DETCON__COLORIZATION__DIRECTIONS": "('L->ab', 'ab->L')",
    "DETCON__COLORIZATION__HIDDEN_DIM": 16,
    "DETCON__MASK_PREDICTION__HIDDEN_DIM": 16,
    "DETCON__DIM__UNITS": 16,
    "DETCON__AMDIM__UNITS": 16,
    "DETCON__CONTEXT_ENCODER__PIXELS": 2,
    "DETCON__COUNTING__OUTPUTS": 16,
    "DETCON__EXEMPLAR__VIEWS": 3,
    "DETCON__EGOMOTION__HIDDEN_DIM": 16,
    "DETCON__CPC__PATCH": 32,
    "DETCON__CPC__CONTEXT_DIM": 8,
    "DETCON__CPC__CONTEXT_LAYERS": 2,
    "DETCON__CPC__DIM": 8,
    "DETCON__IIC__CLUSTERS": "(6, 4)",
    "DETCON__DEEP_CLUSTER__K": 4,
    "DETCON__DEEP_CLUSTER__COMPONENTS": 3,
    "DETCON__IIC__SUB_HEADS": 1,
    "DETCON__MULTITASK__TASKS": '("Rotation", "RelativePosition")',
    "DETCON__EXEMPLAR__DIM": 16,
    "DETCON__SHUFFLE_AND_LEARN__FRAMES": 6,
    "DETCON__SHUFFLE_AND_LEARN__HIDDEN_DIM": 16,
    "DETCON__TRACKING__DIM": 16,
}

every_method = pytest.mark.parametrize("method", pretraining_names())
FOUR = {"SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 4, "SOLVER__WARMUP_ITERS": 0, "DETCON__LOG_PERIOD": 2} | TRAINED


@pytest.fixture(scope="module", params=pretraining_names())
def finished(request, photos, tmp_path_factory) -> tuple[str, Path]:
    """A method, and the folder of its run of four iterations. Tests of the same method follow each other, so that it runs once."""
    folder = tmp_path_factory.mktemp(request.param)
    run(arguments(options(request.param, photos, folder, **FOUR)))
    return request.param, folder


def options(method: str, photos: Path, output: Path, **overrides: object) -> list[str]:
    data = {"DATASETS__TRAIN": f'("video:{photos.parent / "clips"}",)'} if pretraining_class(method).Samples.needs_frames else {}
    return tiny_opts(photos, output, MODEL__META_ARCHITECTURE=method, **SMALL | data | overrides)


def build(method: str, photos: Path, **overrides: object) -> tuple["d2.CfgNode", torch.nn.Module, SampleMaker, list[dict]]:
    """Config, model, sample maker and records. The network is drawn such that no path through it is closed."""
    norms = TRAINED | {"DETCON__ZERO_INIT_RESIDUAL": False, "DETCON__LOG_PERIOD": 1}
    cfg = load_config(BASE, options(method, photos, photos.parent / "unused", **norms | overrides))
    torch.manual_seed(0)
    model = d2.build_model(cfg)
    return cfg, model, model.sample_maker(cfg), load_training_records(cfg, regions=pretraining_class(method).Samples.uses_regions)


def batch_of(method: str, photos: Path, count: int, **overrides: object) -> tuple[torch.nn.Module, list[dict]]:
    cfg, model, samples, records = build(method, photos, SOLVER__IMS_PER_BATCH=count, **overrides)
    return model, next(iter(build_pretraining_loader(cfg, records, samples)))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and found
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, name


@every_method
def test_a_sample_depends_on_image_seed_and_position_alone(method, photos, monkeypatch):
    cfg, _, samples, records = build(method, photos)
    mapper = PretrainingMapper.from_config(cfg, samples)
    record = Companions(samples, cfg.SEED, 17, samples.partners(records))(records, 5)
    before = copy.deepcopy(record)
    first = mapper(record, 17)
    torch.manual_seed(1)
    assert_equal_samples([first], [mapper(record, 17)])
    assert record == before
    other = leaves(mapper(record, 18))
    assert any(not torch.equal(value, other[path]) for path, value in leaves(first).items() if path.endswith("image"))

    whole = list(islice(build_pretraining_loader(cfg, records, samples), 3))
    cfg.DATALOADER.NUM_WORKERS = 2
    for a, b in zip(whole, build_pretraining_loader(cfg, records, samples)):
        assert_equal_samples(a, b)
    cfg.DATALOADER.NUM_WORKERS = 0
    monkeypatch.setattr(d2.comm, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(d2.comm, "get_rank", lambda rank=rank: rank)
        for a, b in zip(whole, build_pretraining_loader(cfg, records, samples)):
            assert_equal_samples(a[2 * rank : 2 * rank + 2], b)


@every_method
def test_the_loss_reaches_every_parameter_through_the_online_embeddings(method, photos):
    model, batch = batch_of(method, photos, 4)
    with d2.EventStorage():
        embeddings = model.embed(batch)
        assert {key for key, value in embeddings.items() if value.requires_grad} == set(model.online_keys)
        assert all(len(value) == 4 for value in embeddings.values())
        losses = model.logged_criterion(embeddings)
        sum(losses.values()).backward()
    assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("probe."):
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        else:
            assert parameter.grad is None, name
    for target, _ in model.target_pairs():
        assert not any(parameter.requires_grad for parameter in target.parameters())


@every_method
def test_names_are_those_of_the_house(method, photos):
    _, model, _, _ = build(method, photos)
    roots = {name.split(".")[0] for name in model.state_dict()}
    assert roots <= {"encoder", "heads", "target", "memory", "probe"} | {"projector", "predictor"}
    described = model.describe(load_config(BASE, options(method, photos, photos.parent / "unused")))
    assert described["method"] == method and described.keys() == {"method", "encoder", "mask_parameters"}


@every_method
def test_nothing_in_the_model_is_random(method, photos):
    model, batch = batch_of(method, photos, 4)
    losses = []
    for seed in range(2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with d2.EventStorage():
            losses.append(copy.deepcopy(model)(batch))
        assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


def test_a_killed_and_resumed_run_is_bit_exact(finished, photos, tmp_path):
    method, folder = finished
    interrupted = options(method, photos, tmp_path, **FOUR)
    trainer = pretrainer(interrupted)
    trainer.register_hooks([StopAfter(3)])
    with pytest.raises(Stopped):
        trainer.train()
    assert run(arguments(interrupted), resume=True).start_iter == 2
    assert_same_state(final_state(folder), final_state(tmp_path))


def learning(storage: "d2.EventStorage") -> dict[str, float]:
    """The metrics of the embeddings; ``constant_views`` is that of a batch's last part."""
    found = {name: value for name, (value, _) in storage.latest().items() if name.startswith("learning/")}
    found.pop("learning/constant_views")
    return found


@every_method
@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_in_parts_is_the_whole_batch(method, photos, size):
    model, batch = batch_of(method, photos, 4, DETCON__PROBE__NUM_CLASSES=2, **HELD)
    with d2.EventStorage() as storage:
        expected = model(batch)
        metrics = learning(storage)
    sum(expected.values()).backward()
    wanted = gradients(model)
    model.zero_grad()
    parts = MicroBatches(model, model, size, lambda: torch.autocast("cpu", enabled=False), lambda loss: loss)
    with d2.EventStorage() as storage:
        losses, backward = parts(batch)
        assert not any(loss.requires_grad for loss in losses.values()) and not gradients(model)
        backward()
        found = learning(storage)
    torch.testing.assert_close(losses, {name: loss.detach() for name, loss in expected.items()}, rtol=1e-5, atol=1e-6)
    assert_same_gradients(gradients(model), wanted)
    assert metrics and found == pytest.approx(metrics, rel=1e-4)


def shares_of_batches(rank: int, photos: str) -> dict[str, dict[str, torch.Tensor]]:
    return {method: share_of_a_batch(method, photos) for method in pretraining_names()}


def share_of_a_batch(method: str, photos: str) -> dict[str, torch.Tensor]:
    model, batch = batch_of(method, Path(photos), 4, **HELD)
    wrapper = torch.nn.parallel.DistributedDataParallel(model)
    with d2.EventStorage():
        losses = wrapper(batch)
    sum(losses.values()).backward()
    return {"loss": sum(losses.values()).detach()} | gradients(model)


@pytest.fixture(scope="module")
def shares(photos, tmp_path_factory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Of both processes, by method. One pair of processes computes all of them, because most of the time goes into their start."""
    return run_processes(shares_of_batches, 2, tmp_path_factory.mktemp("gloo"), str(photos))


@every_method
def test_two_processes_are_one_big_batch(method, photos, shares):
    results = [dict(found[method]) for found in shares]
    model, batch = batch_of(method, photos, 4, **HELD)
    with d2.EventStorage():
        loss = sum(model(batch).values())
    loss.backward()
    torch.testing.assert_close((results[0].pop("loss") + results[1].pop("loss")) / 2, loss.detach(), rtol=1e-5, atol=1e-6)
    for found in results:
        assert_same_gradients(found, gradients(model))


def test_a_run_logs_metrics_and_its_checkpoint_converts_with_nothing_left_over(finished, tmp_path):
    method, folder = finished
    last = metrics(folder)[-1]
    assert any(name.startswith("learning/") for name in last) and "loss_probe" in last
    state = final_state(folder)
    convert(str(folder / "model_final.pth"), tmp_path / "backbone.pkl")
    converted = load_checkpoint_file(tmp_path / "backbone.pkl")
    encoder = {key.removeprefix("encoder."): value for key, value in state["model"].items() if key.startswith("encoder.")}
    encoder = {key: value for key, value in encoder.items() if not key.endswith("num_batches_tracked")}
    found = {key.removeprefix("backbone.bottom_up."): torch.as_tensor(value) for key, value in converted["model"].items()}
    found = {key: value for key, value in found.items() if not key.endswith("num_batches_tracked")}
    torch.testing.assert_close(found, encoder, rtol=0, atol=0)
    assert converted["metadata"]["method"] == method and (tmp_path / "backbone.yaml").is_file()


def test_the_config_survives_a_round_trip(finished, photos):
    method, folder = finished
    cfg, again = load_config(BASE, options(method, photos, folder, **FOUR)), load_config(str(folder / "config.yaml"), [])
    assert again.DETCON == cfg.DETCON and yaml.safe_load(again.dump()) == yaml.safe_load((folder / "config.yaml").read_text())
    assert type(d2.build_model(again)).__name__ == method
