"""The loader gives the same images whatever the number of workers and processes, and continues where a run stopped."""

import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import time
from itertools import islice

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data import load_training_records
from tests.conftest import PATIENCE
from tests.data.samples import loader_of
from tests.data.test_mapper import assert_equal_samples
from tests.prepared import PreparedTool


def batches(cfg, count: int, **arguments) -> list[list[dict]]:
    return list(islice(loader_of(cfg, **arguments), count))


def pretend(monkeypatch, rank: int, world_size: int) -> None:
    """Be one of several processes, as far as the loader can see."""
    monkeypatch.setattr(d2.comm, "get_rank", lambda: rank)
    monkeypatch.setattr(d2.comm, "get_world_size", lambda: world_size)


@pytest.fixture
def cfg(painted_set, make_cfg):
    return make_cfg(painted_set, "DETCON.AUG.JITTER_PROB", (0.8, 0.8), "DETCON.AUG.BLUR_PROB", (1.0, 0.1))


def test_batches_are_lists_of_consecutive_positions_without_end(cfg):
    found = batches(cfg, 6)
    assert [[sample["position"] for sample in batch] for batch in found] == [list(range(4 * t, 4 * t + 4)) for t in range(6)]
    epoch = [sample["file_name"] for batch in found for sample in batch][:10]
    assert len(set(epoch)) == 10


def test_spawned_workers_change_nothing(cfg):
    expected = batches(cfg, 2)
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = loader_of(cfg)
    loader.multiprocessing_context = "spawn"
    assert_equal_samples(list(islice(loader, 2)), expected)


def test_a_resumed_run_continues_exactly(cfg):
    assert_equal_samples(batches(cfg, 2, start_iteration=3), batches(cfg, 5)[3:])


def test_global_random_numbers_are_left_alone(cfg):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(cfg, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_datasets_can_be_pickled(cfg):
    loader = loader_of(cfg)
    assert_equal_samples(pickle.loads(pickle.dumps(loader.dataset))[(3, 1)], loader.dataset[(3, 1)])


class TestBadImages:
    @pytest.fixture
    def broken(self, painted_set):
        path = painted_set.folder / "a" / "4.png"
        path.write_bytes(b"")
        return str(path)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_they_stop_the_run_by_name(self, cfg, broken, workers):
        cfg.DATALOADER.NUM_WORKERS = workers
        with pytest.raises(ValueError) as error:
            batches(cfg, 3)
        text = str(error.value)
        assert broken in text and "at position" in text and "ON_BAD_IMAGE skip" in text

    def test_they_are_replaced_deterministically_and_named_once(self, cfg, broken, caplog):
        cfg.DETCON.ON_BAD_IMAGE = "skip"
        with caplog.at_level(logging.WARNING):
            found = batches(cfg, 10)
        assert sum(broken in record.getMessage() for record in caplog.records) == 1
        cfg.DATALOADER.NUM_WORKERS = 2
        assert_equal_samples(batches(cfg, 10), found)
        names = [sample["file_name"] for batch in found for sample in batch]
        assert broken not in names and [sample["position"] for batch in found for sample in batch] == list(range(40))

    def test_a_data_set_of_bad_images_is_refused(self, cfg, painted_set):
        records = load_training_records(cfg)
        for record in records:
            open(record["file_name"], "wb").close()
        cfg.DETCON.ON_BAD_IMAGE = "skip"
        with pytest.raises(ValueError, match="20 images in a row could not be read at position 0"):
            batches(cfg, 1)

    def test_a_wrong_label_map_is_no_bad_image(self, cfg, painted_set):
        cfg.DETCON.ON_BAD_IMAGE = "skip"
        records = load_training_records(cfg)
        for record in records:
            painted_set.store.write(record["key"], painted_set.store.read(record["key"])[1:])
        with pytest.raises(ValueError, match="The label map"):
            batches(cfg, 1)

    def test_an_unknown_choice_is_refused(self, cfg):
        cfg.DETCON.ON_BAD_IMAGE = "ignore"
        with pytest.raises(ValueError, match="ON_BAD_IMAGE is 'ignore'; expected 'refuse' or 'skip'"):
            loader_of(cfg)


def test_workers_outlive_the_signals_of_a_scheduler_and_end_with_their_loader(cfg):
    """SIGTERM from elsewhere leaves a worker at work; the loader's own ends it, also when nobody asks for more batches."""
    before = set(multiprocessing.active_children())
    cfg.DATALOADER.NUM_WORKERS = 1
    loader = iter(loader_of(cfg))
    next(loader)
    (worker,) = set(multiprocessing.active_children()) - before
    for name in ("TERM", "USR1"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(1)
    assert worker.is_alive() and next(loader)
    worker.terminate()
    worker.join(PATIENCE)
    assert worker.exitcode == 0


_FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from detcon_d2 import add_detcon_config, d2
from tests.data.samples import loader_of, mapper_of, samples_of
cfg = d2.get_cfg()
add_detcon_config(cfg)
cfg.merge_from_list(["INPUT.FORMAT", "RGB", "SEED", 0, "SOLVER.IMS_PER_BATCH", 128, "DATALOADER.NUM_WORKERS", 2, "DETCON.VIEWS.SIZE", 32,
                     "DETCON.MASKS.SOURCE", "grid", "DATASETS.TRAIN", (sys.argv[1],)])
batches = iter(loader_of(cfg))
kept = [next(batches) for _ in range(4)]
print("got", sum(len(batch) for batch in kept))
"""


def run_script(path, code, painted_set):
    """Exit code and output of a process with this code."""
    path.write_text(code)
    process = PreparedTool([str(path), painted_set.name], os.environ)
    output, _ = process.communicate(PATIENCE)
    return process.returncode, output


def test_large_batches_need_few_file_descriptors(painted_set, tmp_path):
    """Eight tensors a record, each with a descriptor, would exhaust the usual 1,024 at batch 128."""
    _, output = run_script(tmp_path / "script.py", _FEW_FILES, painted_set)
    assert "got 512" in output, output[-2000:]


def test_workers_end_when_their_parent_is_killed(painted_set, tmp_path):
    code = _FEW_FILES + "import multiprocessing, os, signal\n"
    code += "print(*(p.pid for p in multiprocessing.active_children()), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    exit_code, output = run_script(tmp_path / "script.py", code, painted_set)
    assert exit_code == -signal.SIGKILL, output[-2000:]
    pids = output.splitlines()[-1].split()
    assert len(pids) == 2
    deadline = time.monotonic() + PATIENCE
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
