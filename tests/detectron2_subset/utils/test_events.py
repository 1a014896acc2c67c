"""EventStorage and writers: the same numbers, the same lines, the same files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch


def record(backend, storage, iterations=65):
    """A run of three scalars, one of them seldom, one unsmoothed, one with explicit iterations."""
    rng = np.random.default_rng(0)
    for i in range(iterations):
        storage.iter = i
        storage.put_scalar("total_loss", torch.tensor(rng.random()))
        storage.put_scalar("lr", 1 / (i + 3), smoothing_hint=False)
        if i % 7 == 0:
            storage.put_scalars(seldom_loss=rng.random(), **{"[metric]x": i})
        if i % 10 == 3:
            storage.put_scalar("late", i, cur_iter=i - 1)
        storage.put_scalars(time=rng.random() + 0.5, data_time=rng.random())
        yield i


def test_scalars_have_histories_and_latest_values(backend):
    storage = backend.get("utils.events").EventStorage(5)
    storage.put_scalar("a", torch.tensor(3.0))
    storage.step()
    storage.put_scalars(a=4, b=1, smoothing_hint=True)
    assert storage.latest() == {"a": (4.0, 6), "b": (1.0, 6)}
    assert storage.history("a").values() == [(3.0, 5), (4.0, 6)]
    assert set(storage.histories()) == {"a", "b"}
    assert storage.smoothing_hints() == {"a": True, "b": True}
    with pytest.raises(KeyError):
        storage.history("c")


def test_a_scalar_keeps_its_smoothing_hint(backend):
    storage = backend.get("utils.events").EventStorage()
    storage.put_scalar("a", 1, smoothing_hint=False)
    with pytest.raises(AssertionError, match="smoothing_hint"):
        storage.put_scalar("a", 1, smoothing_hint=True)


def test_name_scopes_prefix(backend):
    storage = backend.get("utils.events").EventStorage()
    with storage.name_scope("rpn/"):
        storage.put_scalar("loss", 1)
    storage.put_scalar("loss", 2)
    assert storage.latest() == {"rpn/loss": (1.0, 0), "loss": (2.0, 0)}


def test_the_innermost_storage_is_the_current_one(backend):
    events = backend.get("utils.events")
    with pytest.raises(AssertionError, match="get_event_storage"):
        events.get_event_storage()
    with events.EventStorage() as outer:
        with events.EventStorage() as inner:
            assert events.get_event_storage() is inner
        assert events.get_event_storage() is outer


@pytest.mark.parametrize("window", [1, 2, 5, 20, 1000])
def test_smoothing_takes_the_median_over_iterations_not_samples(backend, window):
    storage = backend.get("utils.events").EventStorage()
    for _ in record(backend, storage):
        pass
    values = [value for value, iteration in storage.history("seldom_loss").values() if iteration > 63 - window]
    assert storage.count_samples("seldom_loss", window) == len(values)
    assert storage.latest_with_smoothing_hint(window)["seldom_loss"] == (np.median(values), 63)
    assert storage.latest_with_smoothing_hint(window)["lr"] == (1 / 67, 64)


@pytest.mark.parametrize("window", [1, 4, 20])
def test_numbers_equal_detectron2s(subset, real, window):
    storages = [backend.get("utils.events").EventStorage() for backend in (subset, real)]
    for _ in zip(record(subset, storages[0]), record(real, storages[1]), strict=True):
        assert storages[0].latest_with_smoothing_hint(window) == storages[1].latest_with_smoothing_hint(window)


def write_run(backend, folder, max_iter=65):
    events = backend.get("utils.events")
    lines = folder / "metrics.json"
    with events.EventStorage() as storage:
        writers = [events.CommonMetricPrinter(max_iter, 10), events.JSONWriter(str(lines), 10), events.TensorboardXWriter(str(folder), 10)]
        for i in record(backend, storage, max_iter):
            if i == 9:
                storage.put_image("picture", torch.rand(3, 4, 4))
            if i % 10 == 9:
                for writer in writers:
                    writer.write()
        storage.iter = max_iter
        for writer in writers:
            writer.write()
            writer.close()
    return lines.read_text()


def test_metrics_files_are_one_json_object_a_line(backend, tmp_path):
    rows = [json.loads(line) for line in write_run(backend, tmp_path).splitlines()]
    by_iteration = {row["iteration"]: row for row in rows}
    assert {9, 19, 29, 64} <= set(by_iteration)
    assert by_iteration[9]["lr"] == 1 / 12
    assert {"total_loss", "time", "data_time", "eta_seconds"} <= set(by_iteration[19])
    assert len(rows) == len({json.dumps(row) for row in rows}), "a value was written twice"


def test_metrics_files_and_printed_lines_equal_detectron2s(subset, real, tmp_path, log_lines):
    texts, lines = {}, {}
    for backend in (subset, real):
        (tmp_path / backend.name).mkdir()
        printed = log_lines("detectron2.utils.events")
        texts[backend.name] = write_run(backend, tmp_path / backend.name)
        lines[backend.name] = list(printed)
        printed.clear()
    assert texts["subset"] == texts["detectron2"]
    assert lines["subset"] == lines["detectron2"]
    assert len(lines["subset"]) == 6


def test_metrics_are_appended_to_an_existing_file(backend, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n')
    assert write_run(backend, tmp_path).startswith('{"iteration": 0}\n{')


def test_the_printer_says_nothing_after_the_end_and_needs_no_scalars(backend, log_lines):
    events = backend.get("utils.events")
    lines = log_lines("detectron2.utils.events")
    with events.EventStorage(3) as storage:
        printer = events.CommonMetricPrinter(max_iter=5)
        printer.write()
        storage.iter = 5
        printer.write()
    assert len(lines) == 1
    assert "iter: 3" in lines[0]
    assert "lr: N/A" in lines[0]


def test_tensorboard_files_hold_scalars_and_images(backend, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_run(backend, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    first = events.Scalars("lr")[0]
    assert (first.step, first.value) == (9, pytest.approx(1 / 12))
    assert [e.step for e in events.Images("picture")] == [9]


def test_tensorboard_makes_no_file_before_the_first_write(backend, tmp_path):
    writer = backend.get("utils.events").TensorboardXWriter(str(tmp_path / "run"))
    writer.close()
    assert not Path(tmp_path / "run").exists()


def test_a_writer_must_say_how_to_write(backend):
    from_base = backend.get("utils.events").EventWriter()
    with pytest.raises(NotImplementedError):
        from_base.write()
    assert from_base.close() is None
