"""A fine-tuning run that was stopped or killed continues exactly."""

import argparse
import json
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2 import d2
from detcon_d2.engine.generators import generator_states, kept_generators, set_generator_states
from tests.detectors import arguments, detector_opts, spec
from tests.engine.runs import StopAfter, Stopped, assert_same_state, final_state, finetuner, train
from tests.prepared import launch


@pytest.fixture(scope="module")
def tall_and_wide(shapes, tmp_path_factory) -> Path:
    """The training images, every third of which is cut to be tall, and every other third wide: batches group them by shape."""
    folder = tmp_path_factory.mktemp("tall_and_wide")
    (folder / "images").symlink_to(shapes / "images")
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    for image in content["images"]:
        with Image.open(shapes / "images" / "train" / image["file_name"]) as opened:
            pixels = np.asarray(opened)
        image["height"], image["width"] = [(64, 48), (48, 64), (64, 64)][image["id"] % 3]
        path = folder / "cut" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[: image["height"], : image["width"]]).save(path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    kept = []
    for one in content["annotations"]:
        height, width = sizes[one["image_id"]]
        x, y, w, h = one["bbox"]
        w, h = min(w, width - x), min(h, height - y)
        if w > 2 and h > 2:
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            kept.append(one | {"bbox": [x, y, w, h], "segmentation": [polygon], "area": w * h})
    content["annotations"] = kept
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def opts_of(folder: Path, data: Path, **extra: object) -> list[str]:
    options = {"DATASETS__TRAIN": f'("coco:{data}/instances.json,{data}/cut",)', "DATASETS__TEST": "()", "INPUT__MASK_FORMAT": "polygon"}
    options |= {"SOLVER__MAX_ITER": 6, "SOLVER__IMS_PER_BATCH": 2, "SOLVER__CHECKPOINT_PERIOD": 2, "TEST__PRECISE_BN__ENABLED": False}
    options |= {"INPUT__MIN_SIZE_TRAIN": "(48, 56, 64)"}
    return detector_opts(data, folder, **options | extra)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_that_is_interrupted_twice_ends_with_the_same_bits(tall_and_wide, tmp_path, workers, grouped):
    extra = {"DATALOADER__NUM_WORKERS": workers, "DATALOADER__ASPECT_RATIO_GROUPING": grouped}
    train(finetuner(opts_of(tmp_path / "one", tall_and_wide, **extra)))
    for end in (2, 5, None):
        trainer = finetuner(opts_of(tmp_path / "two", tall_and_wide, **extra), resume=end != 2)
        trainer.resume_or_load(resume=end != 2)
        if end is None:
            assert trainer.start_iter == 4
            trainer.train()
        else:
            trainer.register_hooks([StopAfter(end)])
            with pytest.raises(Stopped):
                trainer.train()
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


def test_evaluation_and_precise_bn_do_not_disturb_it(shapes, tall_and_wide, tmp_path):
    """They happen between a checkpoint and the next iteration, and a resumed run does not repeat them."""
    extra = {"TEST__EVAL_PERIOD": 2, "DATASETS__TEST": f'("{spec(shapes, "val")}",)', "TEST__PRECISE_BN__ENABLED": True}
    train(finetuner(opts_of(tmp_path / "one", tall_and_wide, **extra)))
    trainer = finetuner(opts_of(tmp_path / "two", tall_and_wide, **extra))
    trainer.register_hooks([StopAfter(3)])
    with pytest.raises(Stopped):
        trainer.train()
    train(finetuner(opts_of(tmp_path / "two", tall_and_wide, **extra), resume=True), resume=True)
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


class SignalLastProcess(d2.HookBase):
    def after_step(self) -> None:
        if self.trainer.iter == 1 and d2.comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def run_main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    trainer = finetuner(args.opts, args.resume)
    if args.signalled:
        trainer.register_hooks([SignalLastProcess()])
    train(trainer, args.resume)


def test_two_processes_continue_exactly_after_a_signal(tall_and_wide, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    extra = {"SOLVER__CHECKPOINT_PERIOD": 100}
    one, two = (opts_of(tmp_path / name, tall_and_wide, **extra) for name in ("one", "two"))
    launch(run_main, arguments(one, num_gpus=2, signalled=False))
    with pytest.raises(SystemExit):
        launch(run_main, arguments(two, num_gpus=2, signalled=True))
    assert "Stopped by a signal after iteration 2; continue with --resume." in capfd.readouterr().err
    launch(run_main, arguments(two, num_gpus=2, signalled=False, resume=True))
    assert "start anew" not in (tmp_path / "two" / "log.txt").read_text()
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))


def test_another_number_of_processes_starts_the_random_numbers_anew_and_says_so(tall_and_wide, tmp_path, caplog):
    trainer = finetuner(opts_of(tmp_path, tall_and_wide))
    trainer.register_hooks([StopAfter(2)])
    with pytest.raises(Stopped):
        trainer.train()
    resumed = finetuner(opts_of(tmp_path, tall_and_wide), resume=True)
    resumed.resume_or_load(resume=True)
    resumed._generators._found = resumed._generators._found * 2
    resumed.train()
    assert "of 2 processes, and this run 1: flips and sampled proposals start anew" in caplog.text


def test_kept_generators_go_on_as_if_nothing_had_happened():
    def sample() -> list[float]:
        return [torch.rand(()).item(), np.random.rand(), np.random.randn(), random.gauss(0, 1)]

    sample()
    states = generator_states()
    expected = [sample() for _ in range(3)]
    set_generator_states(states)
    with kept_generators():
        sample()
    assert [sample() for _ in range(3)] == expected
