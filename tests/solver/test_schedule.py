"""Run length and learning rate from the config, and Detectron2's scheduler against the released code."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from detcon_d2 import d2
from detcon_d2.config import add_detcon_config
from detcon_d2.solver import build_finetuning_lr_scheduler, build_pretraining_lr_scheduler, resolve_schedule
from tests.modeling.oracles import relative_error

IMAGENET = 1281167
RUNS = range(7)


def make_cfg(batch=4096, epochs=0.0, warmup_epochs=0.0, base_lr=0.0, **solver):
    cfg = d2.get_cfg()
    add_detcon_config(cfg)
    cfg.SOLVER.IMS_PER_BATCH = batch
    detcon = cfg.DETCON.SOLVER
    detcon.EPOCHS, detcon.WARMUP_EPOCHS, detcon.BASE_LR_256 = epochs, warmup_epochs, base_lr
    cfg.SOLVER.merge_from_list([item for pair in solver.items() for item in pair])
    return cfg


@pytest.mark.parametrize(("epochs", "iterations"), [(100.0, 31278), (300.0, 93835), (1000.0, 312784)])
def test_published_run_lengths_on_imagenet(epochs, iterations):
    cfg = make_cfg(epochs=epochs, warmup_epochs=10.0, base_lr=0.3)
    lines = resolve_schedule(cfg, IMAGENET)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (iterations, 3127)
    assert cfg.SOLVER.BASE_LR == pytest.approx(4.8)
    assert lines == [
        "Learning rate 4.8 = 0.3 x 4096 / 256.",
        f"{epochs:g} epochs of 1281167 images at batch 4096 = {iterations} iterations, warm-up 3127 iterations (10 epochs).",
    ]


def test_keys_that_are_zero_do_not_change_detectron2s_keys():
    cfg = make_cfg(batch=10, BASE_LR=0.25, MAX_ITER=40, WARMUP_ITERS=7)
    lines = resolve_schedule(cfg, 100)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (0.25, 40, 7)
    assert lines == ["Learning rate 0.25 from SOLVER.BASE_LR.", "4 epochs of 100 images at batch 10 = 40 iterations, warm-up 7 iterations."]


@pytest.mark.parametrize(("epochs", "images", "batch", "iterations"), [(0.29, 100, 1, 29), (1.0, 7, 7, 1), (1.5, 7, 2, 5), (0.1, 30, 3, 1)])
def test_iterations_are_exact_for_epochs_as_written(epochs, images, batch, iterations):
    cfg = make_cfg(batch=batch, epochs=epochs, WARMUP_ITERS=0)
    resolve_schedule(cfg, images)
    assert cfg.SOLVER.MAX_ITER == iterations


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warm-up of 50 iterations takes the whole run of 50"):
        resolve_schedule(make_cfg(batch=1, epochs=1.0, WARMUP_ITERS=50), 50)


@pytest.mark.parametrize(
    ("options", "images", "message"),
    [
        ({"batch": 0, "epochs": 1.0}, 10, "SOLVER.IMS_PER_BATCH is 0 with 10 images"),
        ({"epochs": 1.0}, 0, "with 0 images"),
        ({"batch": 64, "epochs": 1.0}, 10, r"1 epochs of 10 images at batch 64 has 0 iterations; .*Raise DETCON.SOLVER.EPOCHS"),
        ({"MAX_ITER": 0}, 10, "has 0 iterations"),
        ({"epochs": -1.0}, 10, "DETCON.SOLVER.EPOCHS is -1.0; expected a number >= 0"),
        ({"base_lr": -0.3}, 10, "DETCON.SOLVER.BASE_LR_256 is -0.3"),
        ({"warmup_epochs": -1.0}, 10, "DETCON.SOLVER.WARMUP_EPOCHS"),
    ],
)
def test_impossible_runs_are_refused(options, images, message):
    with pytest.raises(ValueError, match=message):
        resolve_schedule(make_cfg(**options), images)


def read_run(archive, run):
    return {key.split("/")[1]: archive[key] for key in archive.files if key.startswith(f"run{run}/")}


def learning_rates(cfg, steps):
    """Detectron2's scheduler as DetConTrainer uses it, at the given iterations."""
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.WARMUP_METHOD = "WarmupCosineLR", "linear"
    cfg.SOLVER.WARMUP_FACTOR, cfg.SOLVER.RESCALE_INTERVAL, cfg.SOLVER.BASE_LR_END = 0.0, True, 0.0
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=cfg.SOLVER.BASE_LR)
    scheduler = d2.build_lr_scheduler(cfg, optimizer)
    found = [optimizer.param_groups[0]["lr"]]
    for step in steps[1:]:
        optimizer.step()
        scheduler.last_epoch = int(step) - 1
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return np.array(found)


@pytest.mark.parametrize("run", RUNS)
def test_learning_rate_equals_the_released_code(fixtures_dir, run):
    case = read_run(np.load(fixtures_dir / "schedule.npz"), run)
    total, warmup = int(case["total_steps"]), int(case["warmup_steps"])
    base_lr = float(case["base_learning_rate"])
    cfg = make_cfg(int(case["batch_size"]), float(case["epochs"]), float(case["epochs"] // 100), base_lr, WARMUP_ITERS=0)
    resolve_schedule(cfg, IMAGENET)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (total, warmup)
    # A run has the iterations 0 .. T - 1 and its scheduler ends at T; the oracle's last step comes after T.
    steps, expected = case["steps"][:-1], case["lr_f64"][:-1]
    assert steps[-1] == total < case["steps"][-1]
    found = learning_rates(cfg, steps)
    # With a warm-up the released code rounds to float32 even in its float64 run, so the formula is compared, too.
    assert relative_error(found, expected) < (1e-7 if warmup else 1e-9)
    assert relative_error(found, formula(steps, warmup, total, cfg.SOLVER.BASE_LR)) < 1e-12


def formula(steps, warmup, total, peak):
    """Linear from 0, then a cosine to 0 over the remaining steps."""
    cosine = 0.5 * peak * (1 + np.cos(np.pi * (steps - warmup) / (total - warmup)))
    return np.where(steps < warmup, peak * steps / max(warmup, 1), cosine)


def test_the_extract_is_the_full_oracle(fixtures_dir, shared_dir):
    extract, full = np.load(fixtures_dir / "schedule.npz"), np.load(shared_dir / "oracles" / "schedule_oracle.npz")
    assert set(extract.files) == {key for key in full.files if not key.endswith("_f32")}
    assert all(np.array_equal(extract[key], full[key]) for key in extract.files)


def test_the_polynomial_schedule_goes_from_the_rate_to_its_end_without_a_warm_up():
    cfg = d2.get_cfg()
    solver = {"LR_SCHEDULER_NAME": "WarmupPolyLR", "BASE_LR": 0.01, "BASE_LR_END": 1e-4, "MAX_ITER": 1000, "WARMUP_ITERS": 0}
    cfg.SOLVER.merge_from_other_cfg(d2.CfgNode(solver))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    scheduler = build_finetuning_lr_scheduler(cfg, optimizer)
    found = []
    for _ in range(1000):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # MMSegmentation: (rate - end) (1 - t / T)^0.9 + end.
    assert found == pytest.approx([(0.01 - 1e-4) * (1 - step / 1000) ** 0.9 + 1e-4 for step in range(1000)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    cfg.SOLVER.BASE_LR_END = 0.1
    with pytest.raises(ValueError, match=r"BASE_LR_END is 0\.1; expected a value from 0 to SOLVER\.BASE_LR 0\.01"):
        build_finetuning_lr_scheduler(cfg, optimizer)


def held_rates(images: int, batch: int, epochs: float, count: int, **keys) -> list[float]:
    cfg = make_cfg(batch=batch, epochs=epochs, BASE_LR=0.03, LR_SCHEDULER_NAME="WarmupCosineLR", WARMUP_ITERS=0)
    cfg.DETCON.SOLVER.merge_from_list(["LR_PER_EPOCH", True, *(item for pair in keys.items() for item in pair)])
    resolve_schedule(cfg, images)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=cfg.SOLVER.BASE_LR)
    scheduler, found = build_pretraining_lr_scheduler(cfg, optimizer, images), []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("images", "batch"), [(30, 10), (35, 10), (1281167, 100000)])
def test_moco_cosine_moves_at_the_start_of_each_epoch_and_nowhere_else(images, batch):
    epochs = 4
    steps = range(epochs * images // batch)
    # moco/main_moco.py, adjust_learning_rate.
    expected = [0.03 * 0.5 * (1 + math.cos(math.pi * (step * batch // images) / epochs)) for step in steps]
    assert held_rates(images, batch, float(epochs), len(steps)) == pytest.approx(expected, rel=1e-12)


def test_a_held_cosine_has_no_warm_up():
    with pytest.raises(ValueError, match="LR_PER_EPOCH is True with WarmupCosineLR and 3 iterations of warm-up; expected"):
        held_rates(30, 10, 4.0, 1, WARMUP_EPOCHS=1.0)
