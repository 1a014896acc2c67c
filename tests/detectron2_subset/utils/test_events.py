"""EventStorage and its writers give the same numbers and the same files on both backends."""

import json

import numpy as np
import pytest
import torch


def record(backend, storage, iterations=65):
    """Record a run of several scalars: some rare, some without smoothing, some with explicit iterations."""
    rng = np.random.default_rng(0)
    for i in range(iterations):
        storage.iter = i
        storage.put_scalar("total_loss", torch.tensor(rng.random()))
        storage.put_scalar("lr", 1 / (i + 3), smoothing_hint=False)
        if i % 7 == 0:
            storage.put_scalars(rare_loss=rng.random())
        if i % 10 == 3:
            storage.put_scalar("late", i, cur_iter=i - 1)
        yield i


def test_scalars_have_histories_and_latest_values(backend):
    storage = backend.get("utils.events").EventStorage(5)
    storage.put_scalar("a", torch.tensor(3.0))
    storage.iter = 6
    storage.put_scalars(a=4, b=1)
    assert storage.latest() == {"a": (4.0, 6), "b": (1.0, 6)}
    assert storage.history("a").values() == [(3.0, 5), (4.0, 6)] and set(storage.histories()) == {"a", "b"}
    with pytest.raises(KeyError):
        storage.history("c")
    with pytest.raises(AssertionError, match="smoothing_hint"):
        storage.put_scalar("a", 1, smoothing_hint=False)


def test_the_innermost_storage_is_the_current_one(backend):
    events = backend.get("utils.events")
    with pytest.raises(AssertionError, match="get_event_storage"):
        events.get_event_storage()
    with events.EventStorage() as outer:
        with events.EventStorage() as inner:
            assert events.get_event_storage() is inner
        assert events.get_event_storage() is outer


@pytest.mark.parametrize("window", [1, 20, 1000])
def test_smoothing_takes_the_median_over_iterations_not_values(backend, window):
    storage = backend.get("utils.events").EventStorage()
    for _ in record(backend, storage):
        pass
    values = [value for value, iteration in storage.history("rare_loss").values() if iteration > 63 - window]
    assert storage.latest_with_smoothing_hint(window)["rare_loss"] == (np.median(values), 63)
    assert storage.latest_with_smoothing_hint(window)["lr"] == (1 / 67, 64)


def write_run(backend, folder):
    """Write ``metrics.json`` and a TensorBoard file every ten iterations; return the text of the first."""
    events = backend.get("utils.events")
    with events.EventStorage() as storage:
        writers = [events.JSONWriter(str(folder / "metrics.json"), 10), events.TensorboardXWriter(str(folder), 10)]
        for i in record(backend, storage):
            if i % 10 == 9 or i == 64:
                for writer in writers:
                    writer.write()
        for writer in writers:
            writer.write()
            writer.close()
    return (folder / "metrics.json").read_text()


def test_metrics_files_have_one_json_object_per_line_and_no_value_twice(backend, tmp_path):
    (tmp_path / "metrics.json").write_text('{"iteration": -1}\n')
    rows = [json.loads(line) for line in write_run(backend, tmp_path).splitlines()]
    assert rows[0] == {"iteration": -1}, "the file is appended to"
    by_iteration = {row["iteration"]: row for row in rows}
    assert {9, 19, 29, 64} <= set(by_iteration) and by_iteration[9]["lr"] == 1 / 12
    assert len(rows) == len({json.dumps(row) for row in rows})


def test_metrics_files_equal_detectron2s(subset, real, tmp_path):
    texts = []
    for backend in (subset, real):
        (tmp_path / backend.name).mkdir()
        texts.append(write_run(backend, tmp_path / backend.name))
    assert texts[0] == texts[1]


def test_tensorboard_files_have_the_scalars_and_appear_with_the_first_write(backend, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    backend.get("utils.events").TensorboardXWriter(str(tmp_path / "empty")).close()
    assert not (tmp_path / "empty").exists()
    write_run(backend, tmp_path)
    first = accumulator.EventAccumulator(str(tmp_path)).Reload().Scalars("lr")[0]
    assert (first.step, first.value) == (9, pytest.approx(1 / 12))
