"""Command line, setup of a run, writers."""

import random

import pytest
import torch
import yaml


@pytest.fixture
def engine(backend):
    return backend.get("engine")


def test_the_command_line_has_detectron2s_arguments(engine):
    parser = engine.default_argument_parser("EPILOG")
    args = parser.parse_args(["--config-file", "x.yaml", "--num-gpus", "2", "--eval-only", "SEED", "3"])
    assert (args.config_file, args.num_gpus, args.eval_only, args.resume, args.opts) == ("x.yaml", 2, True, False, ["SEED", "3"])
    defaults = vars(parser.parse_args([]))
    assert defaults.pop("dist_url").startswith("tcp://127.0.0.1:")
    assert defaults == {
        "config_file": "",
        "resume": False,
        "eval_only": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "opts": [],
    }
    assert "EPILOG" in parser.format_help()


def test_the_port_is_a_free_one_for_users(engine):
    port = int(engine.default_argument_parser().get_default("dist_url").rpartition(":")[2])
    assert 49152 <= port < 65536


def make_config(backend, folder, **values):
    cfg = backend.get("config").get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    for key, value in values.items():
        cfg[key] = value
    return cfg


def test_setup_makes_the_folder_logs_and_keeps_the_config(backend, engine, tmp_path, capsys, clean_loggers):
    cfg = make_config(backend, tmp_path / "run", SEED=3)
    cfg.freeze()
    engine.default_setup(cfg, engine.default_argument_parser().parse_args(["SEED", "3"]))
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["SEED"] == 3
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.yaml", "log.txt"]
    text = (tmp_path / "run" / "log.txt").read_text()
    for part in ("Rank of current process: 0. World size: 1", "Environment info", "Command line arguments", "OUTPUT_DIR"):
        assert part in text
    assert "Rank of current process" in capsys.readouterr().out


def test_setup_seeds_with_the_rank_and_sets_cudnn(backend, engine, tmp_path, clean_loggers):
    args = engine.default_argument_parser().parse_args([])
    numbers = []
    for index in range(2):
        engine.default_setup(make_config(backend, tmp_path / str(index), SEED=11, CUDNN_BENCHMARK=bool(index)), args)
        numbers.append((random.random(), torch.rand(1).item()))
        assert torch.backends.cudnn.benchmark == bool(index)
    torch.backends.cudnn.benchmark = False
    assert numbers[0] == numbers[1]
    assert torch.initial_seed() == 11


def test_writers_are_terminal_json_and_tensorboard_in_this_order(backend, engine, tmp_path):
    events = backend.get("utils.events")
    writers = engine.default_writers(str(tmp_path / "run"), 10)
    assert [type(writer) for writer in writers] == [events.CommonMetricPrinter, events.JSONWriter, events.TensorboardXWriter]
    with events.EventStorage() as storage:
        storage.put_scalar("x", 1)
        for writer in writers:
            writer.write()
            writer.close()
    assert (tmp_path / "run" / "metrics.json").read_text() == '{"iteration": 0, "x": 1.0}\n'
    assert list((tmp_path / "run").glob("events.out.tfevents*"))
