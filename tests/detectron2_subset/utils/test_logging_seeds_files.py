"""Loggers, seeds, the description of the environment, and file names."""

import logging
import random
import re
import time

import numpy as np
import torch


def make(backend, folder, rank=0):
    return backend.get("utils.logger").setup_logger(str(folder), rank, name="subset_test")


def test_messages_go_to_the_terminal_and_to_a_file_once(backend, tmp_path, capsys, clean_loggers):
    logger = make(backend, tmp_path)
    assert make(backend, tmp_path) is logger, "a second call adds nothing"
    logger.info("hello")
    logging.getLogger("subset_test.child").warning("look")
    stamp = r"\[\d\d/\d\d \d\d:\d\d:\d\d"
    # An environment that forces colors adds escape sequences.
    out = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    assert re.fullmatch(stamp + r" subset_test\]: hello\nWARNING " + stamp + r" subset_test\.child\]: look\n", out)
    text = (tmp_path / "log.txt").read_text()
    assert re.fullmatch(stamp + r"\] subset_test INFO: hello\n" + stamp + r"\] subset_test\.child WARNING: look\n", text)


def test_other_ranks_write_a_file_of_their_own_and_nothing_to_the_terminal(backend, tmp_path, capsys, clean_loggers):
    make(backend, tmp_path / "x.txt", rank=2).error("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "x.txt.rank2").read_text()


def test_a_line_logs_at_most_once_in_n_seconds(backend, log_lines, monkeypatch):
    module, lines, clock = backend.get("utils.logger"), log_lines("subset_test"), [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(8):
        module.log_every_n_seconds(logging.INFO, f"at {clock[0]:.0f}", 3, name="subset_test")
        clock[0] += 1.0
    assert lines == ["at 1000", "at 1003", "at 1006"]


def sample():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_a_seed_repeats_all_generators(backend):
    seed_all_rng, numbers = backend.get("utils.env").seed_all_rng, []
    for seed in (3, 3, None):
        seed_all_rng(seed)
        numbers.append(sample())
    assert numbers[0] == numbers[1] != numbers[2]


def test_a_seed_gives_the_same_numbers_on_both_backends(subset, real):
    numbers = []
    for backend in (subset, real):
        backend.get("utils.env").seed_all_rng(7)
        numbers.append(sample())
    assert numbers[0] == numbers[1]


def test_the_environment_is_described(backend):
    info = backend.get("utils.collect_env").collect_env_info()
    assert torch.__version__.split("+")[0] in info and np.__version__ in info


def test_file_names_are_local_addresses_or_of_the_model_zoo(backend, tmp_path, monkeypatch):
    manager = backend.get("utils.file_io").PathManager
    manager.mkdirs(str(tmp_path / "a" / "b"))
    with manager.open(str(tmp_path / "a" / "b" / "x.txt"), "w") as file:
        file.write("hello")
    assert (tmp_path / "a" / "b" / "x.txt").read_text() == "hello"
    monkeypatch.setattr(manager._path_handlers["https://"], "_get_local_path", lambda path, **kwargs: f"cache of {path}")
    found = manager.get_local_path("detectron2://ImageNetPretrained/x.pkl")
    assert found == "cache of https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/x.pkl"
