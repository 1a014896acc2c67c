"""The command line and the setup of a run."""

import random

import pytest
import torch
import yaml


@pytest.fixture
def engine(backend):
    return backend.get("engine")


def test_the_command_line_has_the_arguments_of_detectron2(engine):
    parser = engine.default_argument_parser("EPILOG")
    args = parser.parse_args(["--config-file", "x.yaml", "--num-gpus", "2", "--eval-only", "SEED", "3"])
    assert (args.config_file, args.num_gpus, args.eval_only, args.resume, args.opts) == ("x.yaml", 2, True, False, ["SEED", "3"])
    defaults = vars(parser.parse_args([]))
    address, _, port = defaults.pop("dist_url").rpartition(":")
    assert address == "tcp://127.0.0.1" and 49152 <= int(port) < 65536
    expected = {"config_file": "", "resume": False, "eval_only": False, "num_gpus": 1, "num_machines": 1, "machine_rank": 0, "opts": []}
    assert defaults == expected and "EPILOG" in parser.format_help()


def test_setup_logs_keeps_the_config_seeds_and_sets_cudnn(backend, engine, tmp_path, capsys, clean_loggers):
    args, numbers = engine.default_argument_parser().parse_args(["SEED", "3"]), []
    for benchmark in (True, False):
        cfg, folder = backend.get("config").get_cfg(), tmp_path / str(benchmark)
        cfg.OUTPUT_DIR, cfg.SEED, cfg.CUDNN_BENCHMARK = str(folder), 3, benchmark
        cfg.freeze()
        engine.default_setup(cfg, args)
        numbers.append((random.random(), torch.rand(1).item()))
        assert torch.backends.cudnn.benchmark == benchmark
    assert numbers[0] == numbers[1] and torch.initial_seed() == 3
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "log.txt"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["SEED"] == 3
    text = (folder / "log.txt").read_text()
    for part in ("Rank of current process: 0. World size: 1", "Environment info", "Command line arguments", "OUTPUT_DIR"):
        assert part in text
    assert "Rank of current process" in capsys.readouterr().out
