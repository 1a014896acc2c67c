"""Loggers, seeds, environment and files."""

import logging
import random
import re
import time

import numpy as np
import pytest
import torch


def make(backend, folder, rank=0, **kwargs):
    return backend.get("utils.logger").setup_logger(str(folder), rank, name="subset_test", **kwargs)


def test_messages_go_to_the_terminal_and_to_a_file(backend, tmp_path, capsys, clean_loggers):
    logger = make(backend, tmp_path)
    logger.info("hello")
    logging.getLogger("subset_test.child").warning("look")
    stamp = r"\[\d\d/\d\d \d\d:\d\d:\d\d"
    # Without the colors, which a forced-color environment adds.
    out = re.sub(r"\x1b\[\d+m", "", capsys.readouterr().out)
    assert re.search(stamp + r" subset_test\]: hello\n", out)
    assert re.search(r"WARNING " + stamp + r" subset_test\.child\]: look\n", out)
    text = (tmp_path / "log.txt").read_text()
    assert re.fullmatch(stamp + r"\] subset_test INFO: hello\n" + stamp + r"\] subset_test\.child WARNING: look\n", text)


def test_without_color_the_terminal_gets_the_lines_of_the_file(backend, tmp_path, capsys, clean_loggers):
    make(backend, tmp_path, color=False).info("hello")
    assert capsys.readouterr().out == (tmp_path / "log.txt").read_text()


def test_other_ranks_write_a_file_of_their_own_and_nothing_to_the_terminal(backend, tmp_path, capsys, clean_loggers):
    make(backend, tmp_path / "x.txt", rank=2).error("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "x.txt.rank2").read_text()


def test_setting_up_twice_adds_nothing(backend, tmp_path, clean_loggers):
    logger = make(backend, tmp_path)
    handlers = list(logger.handlers)
    assert make(backend, tmp_path) is logger
    assert logger.handlers == handlers


def test_root_names_are_abbreviated_in_the_terminal(backend, tmp_path, capsys, clean_loggers):
    make(backend, tmp_path, abbrev_name="st")
    logging.getLogger("subset_test.child").info("hello")
    assert " st.child]: hello" in capsys.readouterr().out


def test_log_first_n_counts_by_line_or_message(backend, log_lines):
    log_first_n = backend.get("utils.logger").log_first_n
    lines = log_lines("first_n")
    for i in range(4):
        log_first_n(logging.INFO, f"line {i}", n=2, name="first_n")
        log_first_n(logging.INFO, f"message {i % 2}", key="message", name="first_n")
        log_first_n(logging.INFO, f"both {i % 2}", key=("caller", "message"), name="first_n")
    assert sorted(lines) == ["both 0", "both 1", "line 0", "line 1", "message 0", "message 1"]


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeding_makes_all_generators_repeat(backend):
    seed_all_rng = backend.get("utils.env").seed_all_rng
    seed_all_rng(3)
    first = draw()
    seed_all_rng(3)
    assert draw() == first
    seed_all_rng(None)
    assert draw() != first


def test_a_seed_gives_detectron2s_numbers(subset, real):
    numbers = []
    for backend in (subset, real):
        backend.get("utils.env").seed_all_rng(7)
        numbers.append(draw())
    assert numbers[0] == numbers[1]


def test_the_environment_is_described(backend):
    info = backend.get("utils.collect_env").collect_env_info()
    assert torch.__version__.split("+")[0] in info
    assert np.__version__ in info


def test_paths_are_local_or_of_the_model_zoo(backend, tmp_path):
    manager = backend.get("utils.file_io").PathManager
    manager.mkdirs(str(tmp_path / "a" / "b"))
    with manager.open(str(tmp_path / "a" / "b" / "x.txt"), "w") as file:
        file.write("hello")
    assert manager.exists(str(tmp_path / "a" / "b" / "x.txt"))
    assert {"detectron2://", "http://", "https://"} <= set(manager._path_handlers)


def test_registries_find_by_name(backend):
    registry = backend.get("utils.registry").Registry("THINGS")

    @registry.register()
    class Thing:
        pass

    assert registry.get("Thing") is Thing
    with pytest.raises(KeyError, match="THINGS"):
        registry.get("Other")


def test_a_line_logs_at_most_once_in_so_many_seconds(backend, log_lines, monkeypatch):
    module, lines = backend.get("utils.logger"), log_lines("subset_test")
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(8):
        module.log_every_n_seconds(logging.INFO, f"at {clock[0]:.0f}", 3, name="subset_test")
        clock[0] += 1.0
    assert lines == ["at 1000", "at 1003", "at 1006"]
