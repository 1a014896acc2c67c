"""No checkpoint file can run code, and none appears half-written."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from detcon_d2.checkpoint import UnsafeCheckpointError, load_checkpoint_file, load_pickle, load_torch, write_atomically


class RunsCode:
    def __init__(self, target: str):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_of_every_protocol_load(tmp_path, protocol):
    data = {"model": OrderedDict(a=np.arange(6.0).reshape(2, 3), b=np.float32(2.5)), "__author__": "x", "steps": [1, 2.5, None, True]}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    loaded = load_checkpoint_file(path)
    np.testing.assert_array_equal(loaded["model"]["a"], data["model"]["a"])
    assert loaded["model"]["b"] == 2.5 and loaded["steps"] == data["steps"]


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    target = tmp_path / "owned"
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": RunsCode(str(target))}))
    with pytest.raises(UnsafeCheckpointError, match=r"evil.pkl: asks for posix.mkdir"):
        load_pickle(path)
    assert not target.exists()


def test_a_torch_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    target = tmp_path / "owned"
    path = tmp_path / "evil.pth"
    torch.save({"model": RunsCode(str(target))}, path)
    with pytest.raises(UnsafeCheckpointError, match=r"evil.pth"):
        load_torch(path)
    assert not target.exists()


@pytest.mark.parametrize("name", ["cut.pkl", "cut.pth"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith("pkl"):
        content = pickle.dumps({"a": np.zeros(1000)})
        path.write_bytes(content[: len(content) // 2])
    else:
        torch.save({"a": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UnsafeCheckpointError, match=name):
        load_checkpoint_file(path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.pth"]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    reference = tmp_path / "reference"
    reference.write_bytes(b"")
    write_atomically(tmp_path / "new", lambda file: file.write(b"x"))
    assert (tmp_path / "new").stat().st_mode == reference.stat().st_mode
