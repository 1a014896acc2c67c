"""Training on learned regions by DETCON.MASKS.SOURCE kmeans alone: resumed and shared runs, refreshes by epochs, what is kept of them."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from detcon_d2 import d2
from detcon_d2.engine import DetConTrainer, setup_pretraining
from detcon_d2.methods import odin_hook
from tests.conftest import tiny_opts, write_photos
from tests.engine.runs import StopAfter, Stopped, arguments, assert_same_state, final_state, run
from tests.engine.test_trainer import run_main
from tests.prepared import launch

# Of 128 px images, 4 x 4 cells.
KMEANS = {"SOLVER__WARMUP_ITERS": 0, "DETCON__MASKS__SOURCE": "kmeans", "DETCON__MASKS__KMEANS__K": 5, "DETCON__MASKS__KMEANS__SIZE": 128}
# 12 images in batches of 4: an epoch is 3 iterations.
EACH_EPOCH = KMEANS | {"DETCON__MASKS__KMEANS__REFRESH_EPOCHS": 1}


def trainer_of(photos: Path, output: Path, **overrides: object) -> DetConTrainer:
    return DetConTrainer(*setup_pretraining(arguments(tiny_opts(photos, output, **overrides))))


def run_until(photos: Path, output: Path, iteration: int, **overrides: object) -> None:
    """Train, and be killed after so many iterations."""
    trainer = trainer_of(photos, output, **overrides)
    trainer.register_hooks([StopAfter(iteration)])
    with pytest.raises(Stopped):
        trainer.train()


def files(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "kmeans").iterdir())


def seen_tables(trainer: DetConTrainer) -> list[np.ndarray]:
    """Train; the regions of all images that each step saw."""
    tables = []

    class Watch(d2.HookBase):
        def after_step(self) -> None:
            tables.append(np.array(self.trainer.network.learned_regions.table))

    trainer.register_hooks([Watch()])
    trainer.train()
    return tables


@pytest.mark.parametrize("architecture", ["DetConB", "DetConS"])
def test_one_key_trains_on_learned_regions(photos, tmp_path, architecture):
    trainer = run(arguments(tiny_opts(photos, tmp_path, MODEL__META_ARCHITECTURE=architecture, DETCON__LOG_PERIOD=2, **KMEANS)))
    assert trainer.iter == 4 and not (tmp_path / "kmeans").exists()
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    assert 1 < last["learning/regions_per_view"] <= 4
    masks = final_state(tmp_path)["metadata"]["mask_parameters"]
    assert masks == "kmeans k=5 k_end=5 iterations=10 size=128 in_feature=res5 refresh_epochs=0"


@pytest.mark.parametrize("refresh", [0, 1], ids=["each step", "each epoch"])
def test_a_resumed_run_is_bit_exact(photos, tmp_path, refresh):
    """Interrupted between two refreshes, and on the way from 5 regions to 2."""
    extra = EACH_EPOCH | {"DETCON__MASKS__KMEANS__REFRESH_EPOCHS": refresh, "DETCON__MASKS__KMEANS__K_END": 2}
    extra |= {"SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 6}
    run(arguments(tiny_opts(photos, tmp_path / "one", **extra)))
    run_until(photos, tmp_path / "two", 5, **extra)
    resumed = run(arguments(tiny_opts(photos, tmp_path / "two", **extra)), resume=True)
    assert resumed.start_iter == 4
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))
    if refresh:
        assert files(tmp_path / "one") == files(tmp_path / "two")
        for name in files(tmp_path / "one"):
            assert (tmp_path / "one/kmeans" / name).read_bytes() == (tmp_path / "two/kmeans" / name).read_bytes()


def test_regions_change_at_the_start_of_their_epochs_only(photos, tmp_path):
    extra = EACH_EPOCH | {"DETCON__MASKS__KMEANS__REFRESH_EPOCHS": 2, "DETCON__MASKS__KMEANS__K_END": 2, "SOLVER__MAX_ITER": 8}
    tables = seen_tables(trainer_of(photos, tmp_path, **extra))
    assert all(table.shape == (12, 4, 4) and table.dtype == np.uint8 for table in tables)
    assert [np.array_equal(a, b) for a, b in pairwise(tables)] == [True] * 5 + [False] + [True]
    # From 5 to 2 in 8 iterations: at the seventh, 5 - 3 * 6 / 7 = 2.4.
    assert [len(np.unique(tables[i])) for i in (0, 6)] == [5, 2]


def test_a_batch_that_runs_over_the_end_of_an_epoch_belongs_to_the_old_regions(tmp_path):
    """Of 10 images in batches of 4, the batches 0-2 begin in epoch 0, 3-4 in epoch 1, and 5 again with the first of epoch 2."""
    photos = write_photos(tmp_path / "photos", 10)
    tables = seen_tables(trainer_of(photos, tmp_path / "out", SOLVER__MAX_ITER=6, **EACH_EPOCH))
    assert [np.array_equal(a, b) for a, b in pairwise(tables)] == [True, True, False, True, False]


def run_both(args: argparse.Namespace) -> None:
    """Two steps on regions of each step, and two on regions of the epoch."""
    for name, keys in (("step", KMEANS), ("epoch", EACH_EPOCH)):
        opts = [*args.opts, *(str(item) for key, value in keys.items() for item in (key.replace("__", "."), value))]
        run_main(argparse.Namespace(**vars(args) | {"opts": [*opts, "OUTPUT_DIR", f"{args.output}/{name}"]}))


def test_two_processes_equal_one(photos, tmp_path, monkeypatch):
    """Each computes regions of its half of the images; together those of one process, to the bit, and so is what they train on."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for count, output in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        args = arguments(tiny_opts(photos, output, SOLVER__MAX_ITER=2, DETCON__PROBE__ENABLED=False), num_gpus=count)
        args.output = output
        launch(run_both, args)
    one, two = (np.load(tmp_path / name / "epoch/kmeans/regions_iter0000000.npy") for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    for mode in ("step", "epoch"):
        one, two = (json.loads((tmp_path / name / mode / "metrics.json").read_text().splitlines()[-1]) for name in ("one", "two"))
        assert two["total_loss"] == pytest.approx(one["total_loss"], abs=1e-4)


def test_only_files_that_a_checkpoint_needs_are_kept(photos, tmp_path):
    extra = EACH_EPOCH | {"SOLVER__MAX_ITER": 10, "SOLVER__CHECKPOINT_PERIOD": 2, "DETCON__SOLVER__MAX_TO_KEEP": 2}
    run_until(photos, tmp_path, 10, **extra)
    # When the last regions came, at iteration 9, there were the checkpoints of 5 and 7, to go on at 6 and 8.
    assert files(tmp_path) == ["regions_iter0000006.npy", "regions_iter0000009.npy"]


def test_missing_or_foreign_regions_are_refused_before_training(photos, tmp_path):
    extra = EACH_EPOCH | {"SOLVER__MAX_ITER": 7, "SOLVER__CHECKPOINT_PERIOD": 2}
    run_until(photos, tmp_path, 5, **extra)
    path = tmp_path / "kmeans/regions_iter0000003.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ValueError, match=r"regions_iter0000003.npy holds uint8 \(11, 4, 4\); expected uint8 \(12, h, w\)"):
        trainer_of(photos, tmp_path, **extra).resume_or_load(resume=True)
    path.unlink()
    with pytest.raises(ValueError, match=r"regions_iter0000003.npy is missing.*without --resume"):
        trainer_of(photos, tmp_path, **extra).resume_or_load(resume=True)


def test_regions_that_a_network_disk_shows_later_are_waited_for_and_all_processes_agree(photos, tmp_path, monkeypatch):
    extra = EACH_EPOCH | {"SOLVER__MAX_ITER": 7, "SOLVER__CHECKPOINT_PERIOD": 2}
    run_until(photos, tmp_path, 5, **extra)
    path = tmp_path / "kmeans/regions_iter0000003.npy"
    path.rename(tmp_path / "later")
    trainer = trainer_of(photos, tmp_path, **extra)
    monkeypatch.setattr(odin_hook.d2.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(odin_hook.d2.comm, "all_gather", lambda found: [found, True])
    monkeypatch.setattr(odin_hook.time, "sleep", lambda seconds: (tmp_path / "later").rename(path))
    trainer.method_hooks[0]._load(path)
    monkeypatch.setattr(odin_hook.d2.comm, "all_gather", lambda found: [found, False])
    with pytest.raises(ValueError, match=r"is missing for the processes \[1\]"):
        trainer.method_hooks[0]._load(path)


def test_a_new_run_in_an_old_folder_does_not_take_its_regions(photos, tmp_path):
    (tmp_path / "kmeans").mkdir()
    np.save(tmp_path / "kmeans/regions_iter0000000.npy", np.full((12, 4, 4), 77, np.uint8))
    tables = seen_tables(trainer_of(photos, tmp_path, SOLVER__MAX_ITER=1, **EACH_EPOCH))
    assert tables[0].max() < 5


def test_resume_with_other_regions_is_refused(photos, tmp_path):
    run(arguments(tiny_opts(photos, tmp_path, **KMEANS)))
    with pytest.raises(ValueError, match=r"mask_parameters: 'kmeans k=5 .* in the checkpoint, 'kmeans k=6 "):
        trainer_of(photos, tmp_path, **KMEANS | {"DETCON__MASKS__KMEANS__K": 6}).resume_or_load(resume=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_or_skipped(tmp_path, workers):
    photos = write_photos(tmp_path / "photos", 8)
    (photos / "a" / "004.png").write_bytes(b"not an image")
    extra = EACH_EPOCH | {"SOLVER__MAX_ITER": 1, "DATALOADER__NUM_WORKERS": workers}
    with pytest.raises(ValueError, match=r"004\.png.*Repair or remove it"):
        trainer_of(photos, tmp_path / "a", **extra).train()
    (table,) = seen_tables(trainer_of(photos, tmp_path / "b", DETCON__ON_BAD_IMAGE="skip", **extra))
    assert len(table) == 8
