"""tools/evaluate_encoder.py: from a checkpoint and labelled images to a table and a JSON, and what it refuses."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.evaluation.evaluate import accuracy_table
from detcon_d2.evaluation.features import whole_image
from detcon_d2.evaluation.frozen import trained_encoder
from detcon_d2.evaluation.knn import knn_accuracy
from detcon_d2.evaluation.linear_probe import PROTOCOLS
from tests.checkpoint.pretrained import pretraining_config
from tests.conftest import write_photos

FAST = ("--num-workers", 0, "--protocol", "slides_sgd")


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Specs of 30 training and 12 test images of two classes."""
    folder = tmp_path_factory.mktemp("split")
    return tuple(f"folder:{write_photos(folder / name, count, seed=count)}" for name, count in (("train", 30), ("test", 12)))


def evaluate(run_tool, output, *arguments):
    done = run_tool("evaluate_encoder.py", *arguments, "--output", output)
    assert done.returncode == 0, done.stderr
    return json.loads((output / "evaluation.json").read_text()), done.stdout


def test_the_command_writes_accuracies_of_the_checkpoints_features(run_tool, pretrained, split, tmp_path):
    result, out = evaluate(run_tool, tmp_path, pretrained, *split, "--size", 64, *FAST[:2], "--protocol", "moco", "byol")
    encoder = trained_encoder(read_checkpoint(pretrained))
    known = []
    for spec in split:
        files = sorted(str(path) for path in Path(spec.removeprefix("folder:")).rglob("*.png"))
        pixels = torch.stack([whole_image(np.asarray(Image.open(file)), 64) for file in files])
        known += [F.normalize(encoder(pixels), dim=1), torch.tensor([int("/b/" in file) for file in files])]
    for row, k in zip(result["knn"], (20, 30), strict=True):
        assert (row["k"], row["temperature"]) == (k, 0.07)
        assert (row["top1"], row["top5"]) == knn_accuracy(*known, k=k, temperature=0.07)
    assert result["weights_sha256"] == hashlib.sha256(pretrained.read_bytes()).hexdigest()
    assert result["encoder"] == "online" and result["metadata"]["method"] == "DetConB"
    assert (result["classes"], result["chance"], result["train"]["images"], result["test"]["images"]) == (["a", "b"], 50.0, 30, 12)
    assert result["input"]["size"] == 64 and result["input"]["channels"] == encoder(pixels).shape[1]
    assert [row["protocol"]["name"] for row in result["probe"]] == ["moco", "byol"]
    for row in result["probe"]:
        assert [rate for rate, _ in row["held_out"]] == PROTOCOLS[row["protocol"]["name"]].rates()
        assert row["augmentation"] == "none" and row["top5"] == 100
    assert all(line in out for line in accuracy_table(result))
    for name in ("kNN, k = 20", "kNN, k = 30", "linear probe, moco", "linear probe, byol", "chance (2 classes)"):
        assert f"\n{name} " in out


def test_the_averaged_encoder_is_the_one_that_was_converted(run_tool, pretrained, split, tmp_path):
    convert(pretrained, tmp_path / "ema.pkl", branch="ema")
    weights = (pretrained, "--encoder", "ema"), (tmp_path / "ema.pkl",), (pretrained,)
    results = [
        evaluate(run_tool, tmp_path / str(i), *rest[:1], *split, "--size", 64, *rest[1:], *FAST)[0] for i, rest in enumerate(weights)
    ]
    assert [result["encoder"] for result in results] == ["ema", "ema", "online"]
    parts = [np.concatenate([np.load(path) for path in sorted((tmp_path / str(i)).rglob("*.npy"))]) for i in range(3)]
    assert results[0]["probe"] == results[1]["probe"] and np.array_equal(parts[0], parts[1]) and not np.array_equal(parts[0], parts[2])


def test_a_second_call_reads_the_features_and_gives_the_same_result(run_tool, pretrained, split, tmp_path):
    arguments = (pretrained, *split, "--size", 64, *FAST)
    first, _ = evaluate(run_tool, tmp_path, *arguments)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(written) == 2 and evaluate(run_tool, tmp_path, *arguments)[0] == first
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}


def test_a_random_encoder_comes_from_a_config(run_tool, split, tmp_path):
    (tmp_path / "config.yaml").write_text(pretraining_config(SEED=5).dump())
    result, _ = evaluate(run_tool, tmp_path, "random", *split, "--config-file", tmp_path / "config.yaml", "--size", 64, *FAST)
    assert (result["weights"], result["seed"]) == ("random", 5) and "weights_sha256" not in result


def test_the_cifar_10_experiment_of_the_slides_is_one_command(run_tool, pretrained, cifar, tmp_path):
    spec = f"cifar10:{cifar}"
    result, out = evaluate(run_tool, tmp_path, pretrained, spec, spec, "--protocol", "slides_adam", "slides_sgd", *FAST[:2])
    assert result["input"]["size"] == "native" and result["chance"] == 10
    assert [(row["protocol"]["name"], row["rate"], row["held_out"]) for row in result["probe"]] == [
        ("slides_adam", 1e-3, []),
        ("slides_sgd", 0.1, []),
    ]
    assert "linear probe, slides_adam" in out and "chance (10 classes)" in out


@pytest.mark.parametrize(("kind", "decay"), [("cifar10", 0.0), ("folder", 1e-6)])
def test_simclrs_weight_decay_is_0_on_cifar_10(run_tool, pretrained, cifar, split, tmp_path, kind, decay):
    specs = split if kind == "folder" else (f"cifar10:{cifar}",) * 2
    result, _ = evaluate(run_tool, tmp_path, pretrained, *specs, "--size", 64, "--protocol", "simclr", "--rates", 0.1, *FAST[:2])
    assert result["probe"][0]["protocol"]["weight_decay"] == decay and result["input"]["size"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("WEIGHTS", "TRAIN", "cifar10:CIFAR"), "classes that the training images lack: airplane"),
        (("WEIGHTS", "TRAIN", "folder:/nowhere"), "found nothing at /nowhere; expected a folder of images"),
        (("nowhere.pth", "TRAIN", "TEST"), "No checkpoint at nowhere.pth."),
        (("random", "TRAIN", "TEST"), "expected --config-file with random, and only then"),
        (("WEIGHTS", "TRAIN", "TEST", "--config-file", "a.yaml"), "expected --config-file with random, and only then"),
        (("WEIGHTS", "TRAIN", "TEST", "--rates", "0"), "rates [0.0]; expected numbers > 0"),
        (("WEIGHTS", "TRAIN", "TEST", "--batch-size", "0"), "batch size 0 and rates None; expected numbers > 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_result(run_tool, pretrained, cifar, split, tmp_path, arguments, message):
    places = {"WEIGHTS": pretrained, "TRAIN": split[0], "TEST": split[1], "cifar10:CIFAR": f"cifar10:{cifar}"}
    done = run_tool("evaluate_encoder.py", *(places.get(item, item) for item in arguments), "--output", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out/evaluation.json").exists()


def test_a_size_that_is_none_is_refused_by_the_parser(run_tool, tmp_path):
    done = run_tool("evaluate_encoder.py", "a.pth", "folder:a", "folder:b", "--output", tmp_path, "--size", "big")
    assert done.returncode == 2 and "argument --size: found big; expected a number of pixels or native" in done.stderr
