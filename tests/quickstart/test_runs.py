"""The commands of runs: the tools know their options, and methods differ only in the initial weights."""

import json
from pathlib import Path

import numpy as np
import pytest

from detcon_d2.engine.setup import load_config
from detcon_d2.io.images import read_image
from detcon_d2.quickstart.runs import METHODS, DataSet, Method, Run, Training
from detcon_d2.quickstart.shapes import ShapesConfig, generate_shapes
from tests.conftest import REPO

TRAINING = Training(seed=1, pretrain_epochs=2.0, finetune_iterations=100)
PRETRAINED = [method for method in METHODS.values() if method.config]


@pytest.fixture
def data_set(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "easy", ShapesConfig())


def pretraining_config(data_set: DataSet, method: Method, training: Training = TRAINING):
    """The config of the pretraining command."""
    words = data_set.commands(method, training)[0].words
    return load_config(str(REPO / words[words.index("--config-file") + 1]), list(words[words.index("--resume") + 1 :]))


def test_every_command_runs_a_tool_of_the_checkout_that_knows_its_options_on_a_config_that_exists(data_set, run_tool):
    commands = [command for method in METHODS.values() for command in data_set.commands(method, TRAINING)]
    commands += [data_set.masks("fh"), data_set.masks("annotations"), data_set.sheet(METHODS["detcon_b"])]
    for command in commands:
        assert all((REPO / word).is_file() for word in command.words if word.startswith(("tools/", "configs/"))), command
    assert len(data_set.commands(METHODS["random"], TRAINING)) == 1
    for words in {command.words[0]: command.words for command in commands}.values():
        done = run_tool(Path(words[0]).relative_to("tools"), "--help")
        assert done.returncode == 0, words[0]
        assert [word for word in words if word.startswith("--") and word not in done.stdout] == [], words[0]


def test_fine_tuning_is_the_same_for_every_method_except_for_weights_and_folder(data_set):
    settings = []
    for method in METHODS.values():
        words = data_set.finetuning(Run(method, data_set.folder / "run"), TRAINING).words
        values = dict(zip(words[4::2], words[5::2], strict=True))
        assert (values.pop("MODEL.WEIGHTS") == "") == (method.config is None)
        settings.append(values)
    assert all(values == settings[0] for values in settings)
    assert settings[0]["SOLVER.STEPS"] == "(70, 90)" and settings[0]["SEED"] == "1"


def test_methods_have_equal_budgets_and_the_regions_that_they_name(data_set):
    configs = {method.name: pretraining_config(data_set, method) for method in PRETRAINED}
    assert {(cfg.DETCON.SOLVER.EPOCHS, cfg.SEED, cfg.SOLVER.IMS_PER_BATCH) for cfg in configs.values()} == {(2.0, 1, 64)}
    masks = {name: cfg.DETCON.MASKS for name, cfg in configs.items()}
    assert masks["detcon_b"].ROOTS == (str(data_set.folder / "masks_fh"),) and masks["detcon_b"].SOURCE == "files"
    assert masks["detcon_b_kmeans"].SOURCE == "kmeans"
    assert [(masks[name].SOURCE, masks[name].GRID) for name in ("grid", "detcon_b_grid5")] == [("grid", 1), ("grid", 5)]


def test_options_come_last_so_that_they_win_and_fine_tuning_has_none(data_set):
    method = METHODS["detcon_s"]
    training = TRAINING._replace(pretrain_options=("SOLVER.AMP.ENABLED", "False", "DETCON.SOLVER.EPOCHS", "3.0"))
    cfg = pretraining_config(data_set, method, training)
    assert not cfg.SOLVER.AMP.ENABLED and cfg.DETCON.SOLVER.EPOCHS == 3.0
    assert data_set.commands(method, training)[-1] == data_set.commands(method, TRAINING)[-1]


def test_only_the_upper_bound_uses_annotations_and_no_pretraining_uses_validation_images(data_set):
    for method in PRETRAINED:
        train = str(pretraining_config(data_set, method).DATASETS.TRAIN).replace(str(data_set.folder), "")
        assert ("instances_" in train) == (method.name == "annotations") and "val" not in train
        assert ("crops" in train) == method.crops == (method.name == "supervised")
    assert "instances_" not in " ".join(data_set.masks("fh").words)


def test_regions_are_cut_out_at_their_boxes_once(tmp_path):
    data_set = DataSet(tmp_path, ShapesConfig(size=48, num_unlabeled=2, num_train=1, num_val=1))
    paths = generate_shapes(tmp_path / "data", data_set.shapes, workers=1, progress=False)["unlabeled"]
    data_set.cut_regions("unlabeled")
    content = json.loads(paths.annotations.read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = sorted(data_set.crops("unlabeled").rglob("*.png"))
    expected = [(names[annotation["category_id"]], annotation) for annotation in content["annotations"]]
    assert sorted((path.parent.name, int(path.stem)) for path in found) == sorted((name, row["id"]) for name, row in expected)
    name, row = expected[0]
    x, y, width, height = map(int, row["bbox"])
    image = read_image(paths.images / "000000.jpg")
    np.testing.assert_array_equal(read_image(data_set.crops("unlabeled") / name / "000001.png"), image[y : y + height, x : x + width])
    found[0].unlink()
    data_set.cut_regions("unlabeled")
    assert not found[0].exists()
