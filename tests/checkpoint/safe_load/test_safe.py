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


def test_torchs_advice_to_load_unsafely_is_not_passed_on(tmp_path):
    torch.save({"model": RunsCode(str(tmp_path / "owned"))}, tmp_path / "evil.pth")
    (tmp_path / "text.pth").write_text('{"a": 1}')
    for name, reason in (("evil.pth", "asks for posix.mkdir; only tensors"), ("text.pth", "no checkpoint of this kind, or cut short")):
        with pytest.raises(UnsafeCheckpointError, match=f"{name}: .*{reason}") as error:
            load_torch(tmp_path / name)
        assert "weights_only" not in str(error.value)


def test_safetensors_load_with_the_metadata_of_their_header(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}
    safetensors.save_file(tensors, tmp_path / "m.safetensors", {"metadata": '{"depth": 50, "pixel_mean": [1.5]}'})
    loaded = load_checkpoint_file(tmp_path / "m.safetensors")
    assert loaded["metadata"] == {"depth": 50, "pixel_mean": [1.5]} and loaded["model"].keys() == tensors.keys()
    torch.testing.assert_close(loaded["model"], tensors, rtol=0, atol=0)
    safetensors.save_file(tensors, tmp_path / "bare.safetensors")
    assert load_checkpoint_file(tmp_path / "bare.safetensors").keys() == {"model"}
    (tmp_path / "m.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-4])
    with pytest.raises(UnsafeCheckpointError, match=r"m\.safetensors: .*cut short"):
        load_checkpoint_file(tmp_path / "m.safetensors")


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
