"""From images to a chain that runs and continues."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from detcon_d2.engine.finetune.setup import check_finetuning_config
from detcon_d2.engine.setup import check_pretraining_config, load_config
from detcon_d2.io.annotated.read import read_annotated
from detcon_d2.recipe import command
from detcon_d2.recipe.budget import Speed, calibrate
from detcon_d2.recipe.config import write_config
from detcon_d2.recipe.look import look_at_objects
from detcon_d2.recipe.results import gains_table
from tests.conftest import PATIENCE, TINY, write_photos
from tests.detectors import spec, write_shapes

# Leaves behind what each command makes, and a line of its words.
_FAKE = """#!/bin/sh
shift 2
echo "$@" >> {log}
case "$1" in
    generate_masks) mkdir -p "$3" ;;
    visualize_views) touch views.png ;;
    convert_to_d2) touch "$3" ;;
    train_net)
        for last; do :; done
        mkdir -p "$last"
        case "$last" in *pretrain) touch "$last/model_final.pth" ;; *) {fails}; touch "$last/results.json" ;; esac ;;
esac
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"), num_train=10, num_val=3)


@pytest.fixture(scope="module")
def chain(shapes, tmp_path_factory) -> Path:
    """The output of the command, with times of another machine in place of a calibration."""
    folder, photos = tmp_path_factory.mktemp("recipe") / "out", write_photos(tmp_path_factory.mktemp("photos"), 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "calibrate", lambda config, folder, options=(): Speed(0.5, 5.0))
        words = [str(photos), "--output", str(folder), "--hours", "0.5", "--train", spec(shapes, "train"), "--test", spec(shapes, "val")]
        assert command.main(words) == 0
    return folder


def test_the_configs_are_valid_and_every_chosen_key_has_its_reason(chain):
    pretraining, detector = (load_config(str(chain / name), []) for name in ("pretrain.yaml", "detector.yaml"))
    check_pretraining_config(pretraining, 1)
    check_finetuning_config(detector, 1)
    assert pretraining.MODEL.META_ARCHITECTURE == "MaskPrediction" and pretraining.DETCON.MASK_PREDICTION.TARGET == "neighbours"
    assert detector.MODEL.ROI_HEADS.NUM_CLASSES == 8 and detector.MODEL.MASK_ON and pretraining.DETCON.SOLVER.EPOCHS >= 1
    assert pretraining.DETCON.MASKS.ROOTS == (str(chain / "masks"),)
    lines = (chain / "pretrain.yaml").read_text().splitlines()
    for key in ("SIZE", "OPERATORS", "EPOCHS", "BASE_LR", "IMS_PER_BATCH", "META_ARCHITECTURE", "ROOTS"):
        number = next(index for index, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
        assert "  # " in lines[number] or lines[number - 1].strip().startswith("# "), key


def test_images_without_regions_are_contrasted_with_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "calibrate", lambda config, folder, options=(): Speed(0.5, 5.0))
    for number in range(4):
        Image.new("RGB", (96, 96), (40 * number, 90, 120)).save(tmp_path / f"{number}.png")
    assert command.main([str(tmp_path), "--output", str(tmp_path / "out"), "--hours", "0.5"]) == 0
    assert load_config(str(tmp_path / "out/pretrain.yaml"), []).MODEL.META_ARCHITECTURE == "DetConS"


def test_the_sheet_shows_images_choices_and_commands(chain):
    page = (chain / "recipe.html").read_text()
    assert page.count("<img") >= 3 and "DETCON.AUG.OPERATORS" in page and "generate_masks" in page and "brightness" in page


def test_the_script_runs_the_chain_in_order_and_continues_after_a_failure(chain, tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    script = (chain / "run.sh").read_text()

    def run(fails: str) -> tuple[int, list[str]]:
        python = tmp_path / "python"
        python.write_text(_FAKE.format(log=log, fails=fails))
        python.chmod(python.stat().st_mode | stat.S_IEXEC)
        log.write_text("")
        environment = {**os.environ, "PYTHON": str(python)}
        done = subprocess.run(["sh", str(chain / "run.sh"), "7"], env=environment, capture_output=True, text=True, timeout=PATIENCE)
        return done.returncode, log.read_text().splitlines()

    code, lines = run("exit 3")
    assert code == 3 and [line.split()[0] for line in lines] == [
        "generate_masks",
        "visualize_views",
        "train_net",
        "convert_to_d2",
        "train_net",
    ]
    assert "SEED 7 OUTPUT_DIR seed_7/pretrain" in lines[2]
    code, lines = run(":")
    assert code == 0 and [line.split()[0] for line in lines] == ["train_net", "train_net", "recipe"]
    assert "MODEL.WEIGHTS  SEED" in lines[0] and "MODEL.WEIGHTS seed_7/backbone.pth SEED" in lines[1]
    assert run(":")[1] == ["recipe --results ."] and "PYTHONPATH" in script


def test_without_a_test_set_every_fifth_image_is_kept_for_it(shapes, tmp_path):
    found = look_at_objects(spec(shapes, "train"), "", tmp_path)
    train, test = (read_annotated(name) for name in (found.train, found.test))
    files = [{record["file_name"] for record in data.records} for data in (train, test)]
    assert (found.train_images, found.test_images) == (8, 2) and not files[0] & files[1]
    assert files[0] | files[1] == {record["file_name"] for record in read_annotated(spec(shapes, "train")).records}
    assert train.class_names() == test.class_names() == found.classes and found.masks and found.coded


def test_a_calibration_runs_the_loader_and_the_step(photos, tmp_path):
    tiny = {key: str(value) for key, value in TINY.items() if not key.startswith("SOLVER.MAX_ITER")}
    tiny |= {"DATASETS.TRAIN": repr((f"folder:{photos}",))}
    write_config(tmp_path / "trial.yaml", "A trial.", "Base-DetCon.yaml", [])
    speed = calibrate(tmp_path / "trial.yaml", tmp_path / "run", [word for pair in tiny.items() for word in pair])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert speed.iteration > 0 and speed.start > 0 and lines[-1]["iteration"] == 11
    with pytest.raises(ValueError, match=r"calibration of .* failed(.|\n)*nowhere"):
        calibrate(tmp_path / "trial.yaml", tmp_path / "wrong", ["DATASETS.TRAIN", "('folder:/nowhere',)"])


def test_gains_are_listed_by_seed_with_their_mean(tmp_path):
    for seed, (before, after) in enumerate([(10.0, 12.0), (11.0, 15.0)]):
        for name, ap in (("random", before), ("pretrained", after)):
            folder = tmp_path / f"seed_{seed}" / name
            folder.mkdir(parents=True)
            content = {"backend": "subset", "iteration": 3, "results": {"test": {"bbox": {"AP": ap}}}}
            (folder / "results.json").write_text(json.dumps(content))
    lines = gains_table(tmp_path).splitlines()
    assert lines[2].split() == ["seed_0", "10.0", "12.0", "+2.0"] and lines[-1].split() == ["mean", "10.5", "13.5", "+3.0"]
    with pytest.raises(ValueError, match=r"expected the output of run\.sh"):
        gains_table(tmp_path / "seed_0")


def test_mistakes_are_one_line(tmp_path, capsys):
    assert command.main([str(tmp_path / "absent"), "--output", str(tmp_path / "out")]) == 2
    assert "nothing at" in capsys.readouterr().err
    assert command.main([str(tmp_path), "--output", str(tmp_path / "out"), "--test", "coco:a,b"]) == 2
    assert "--train" in capsys.readouterr().err
