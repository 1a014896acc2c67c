"""The commands of the small experiments: the tools know their flags, and the arms differ in their start only."""

import dataclasses
from pathlib import Path

import pytest

from detcon_d2.engine.setup import load_config
from detcon_d2.quickstart.runs import ROWS, Training, World
from detcon_d2.quickstart.shapes import ShapesConfig
from tests.conftest import REPO

TRAINING = Training(pretrain_epochs=2.0, finetune_iterations=100)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "easy", ShapesConfig())


def overrides(command: tuple[str, ...]) -> dict[str, str]:
    """KEY -> VALUE of a train_net command line."""
    start = next(i for i, word in enumerate(command) if ("." in word and word.isupper()) or word.startswith(("DATASETS", "MODEL.")))
    return dict(zip(command[start::2], command[start + 1 :: 2], strict=True))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_every_stage_runs_a_tool_of_the_checkout_on_a_config_that_exists(world: World, row) -> None:
    stages = list(world.arm(row, 0, TRAINING).stages)
    if row.regions in ("fh", "annotations"):
        stages += world.masks(row.regions).stages
    for stage in stages:
        assert (REPO / stage.command[0]).is_file(), stage.command[0]
        assert all((REPO / word).is_file() for word in stage.command if word.startswith("configs/"))


def test_the_tools_know_the_flags_that_the_stages_pass(world: World, run_tool) -> None:
    row = ROWS["detcon_b"]
    stages = [*world.arm(row, 0, TRAINING).stages, *world.masks("fh").stages, *world.sheet(row).stages]
    for command in {stage.command[0]: stage.command for stage in stages}.values():
        done = run_tool(Path(command[0]).relative_to("tools"), "--help")
        assert done.returncode == 0, command[0]
        assert [word for word in command if word.startswith("--") and word not in done.stdout] == [], command[0]


def test_fine_tuning_is_the_same_for_every_row_but_for_weights_and_folder(world: World) -> None:
    settings = []
    for row in ROWS.values():
        values = overrides(world.finetuning(row, 1, TRAINING, world.arm_folder(row, 1)).command)
        assert (values.pop("MODEL.WEIGHTS") == "") == (row.config is None)
        values.pop("OUTPUT_DIR")
        settings.append(values)
    assert all(values == settings[0] for values in settings)
    assert settings[0]["SOLVER.STEPS"] == "(70, 90)" and settings[0]["SEED"] == "1"


def test_pretraining_rows_have_the_same_budget(world: World) -> None:
    rows = [row for row in ROWS.values() if row.config]
    values = [overrides(world.pretraining(row, 2, TRAINING, world.arm_folder(row, 2))[0].command) for row in rows]
    assert {entry["DETCON.SOLVER.EPOCHS"] for entry in values} == {"2.0"} and {entry["SEED"] for entry in values} == {"2"}


def test_options_come_last_so_that_they_win_and_fine_tuning_has_none(world: World) -> None:
    row, options = ROWS["detcon_s"], ("SOLVER.AMP.ENABLED", "False", "DETCON.SOLVER.EPOCHS", "3.0")
    pretraining, _, finetuning = world.arm(row, 0, dataclasses.replace(TRAINING, pretrain_options=options)).stages
    command = list(pretraining.command)
    cfg = load_config(str(REPO / command[command.index("--config-file") + 1]), command[command.index("--resume") + 1 :])
    assert not cfg.SOLVER.AMP.ENABLED and cfg.DETCON.SOLVER.EPOCHS == 3.0
    assert finetuning == world.arm(row, 0, TRAINING).stages[-1]


def test_only_the_upper_bound_sees_annotations_and_nobody_sees_validation_images(world: World) -> None:
    for row in ROWS.values():
        words = " ".join(word for stage in world.pretraining(row, 0, TRAINING, world.arm_folder(row, 0)) for word in stage.command)
        assert "instances_" not in words or row.name == "annotations"
        assert "val" not in words.replace(str(world.folder), "")
    assert "instances_" not in " ".join(world.masks("fh").stages[0].command)


def test_random_initialisation_neither_pretrains_nor_converts(world: World) -> None:
    assert [stage.title for stage in world.arm(ROWS["random"], 0, TRAINING).stages] == ["Mask R-CNN from random initialisation"]


def test_rows_differ_in_the_source_of_their_regions_as_they_say(world: World) -> None:
    def regions(name: str) -> tuple[object, ...]:
        command = world.pretraining(ROWS[name], 0, TRAINING, world.arm_folder(ROWS[name], 0))[0].command
        cfg = load_config(str(REPO / command[command.index("--config-file") + 1]), list(command[command.index("--resume") + 1 :]))
        return cfg.DETCON.MASKS.SOURCE, cfg.DETCON.MASKS.GRID

    assert regions("detcon_b")[0] == "files" and regions("detcon_b_kmeans")[0] == "kmeans"
    assert (regions("grid"), regions("detcon_b_grid5")) == (("grid", 1), ("grid", 5))
