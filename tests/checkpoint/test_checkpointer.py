"""The checkpointer writes whole files, resumes strictly and names what does not fit."""

import errno
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from detcon_d2.checkpoint import CheckpointMetadata, DetConCheckpointer, pretraining_metadata, read_metadata
from detcon_d2.checkpoint.metadata import network_metadata
from tests.checkpoint.pretrained import METHOD, pretraining_config

VALUES = {"method": "DetConB", "depth": 50, "seed": 0, "ims_per_batch": 8, "dataset_size": 12, "max_iter": 5, "mask_parameters": "grid 2"}


def model(width: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))


def test_saved_and_resumed_model_and_metadata_are_equal(tmp_path):
    saver = DetConCheckpointer(model(), str(tmp_path), metadata=CheckpointMetadata(VALUES))
    saver.save("model_0000004", iteration=4)
    other = model()
    nn.init.zeros_(other[0].weight)
    rest = DetConCheckpointer(other, str(tmp_path), metadata=CheckpointMetadata(VALUES)).resume_or_load("", resume=True)
    assert rest["iteration"] == 4
    torch.testing.assert_close(other.state_dict(), model().state_dict(), rtol=0, atol=0)
    assert read_metadata(tmp_path / "model_0000004.pth") == VALUES | {"iterations": 5, "epochs": 5 * 8 / 12}


def test_a_save_that_fails_leaves_the_old_files_and_no_rest(tmp_path, monkeypatch):
    checkpointer = DetConCheckpointer(model(), str(tmp_path))
    checkpointer.save("m")
    (tmp_path / "usual").touch()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert (tmp_path / "m.pth").stat().st_mode == (tmp_path / "usual").stat().st_mode

    def fail(data, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"cannot write .*m\.pth: disk full"):
        checkpointer.save("m")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_with_another_seed_names_found_and_expected(tmp_path):
    DetConCheckpointer(model(), str(tmp_path), metadata=CheckpointMetadata(VALUES)).save("m")
    other = CheckpointMetadata(VALUES | {"seed": 7})
    with pytest.raises(ValueError, match=r"seed: 0 in the checkpoint, 7 in this run"):
        DetConCheckpointer(model(), str(tmp_path), metadata=other).resume_or_load("", resume=True)
    lenient = CheckpointMetadata(VALUES | {"seed": 7}, strict=False)
    DetConCheckpointer(model(), str(tmp_path), metadata=lenient).resume_or_load("", resume=True)


def test_resume_lists_missing_unexpected_and_misshapen_keys(tmp_path):
    DetConCheckpointer(model(), str(tmp_path)).save("m")
    other = nn.Sequential(nn.Linear(4, 5), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2, affine=False))
    with pytest.raises(ValueError) as error:
        DetConCheckpointer(other, str(tmp_path)).resume_or_load("", resume=True)
    text = str(error.value)
    assert "missing in the checkpoint: 2.running_mean" in text
    assert "unexpected in the checkpoint: 1.bias" in text
    assert "0.weight: (3, 4) in the checkpoint, (5, 4) in the model" in text


def test_initialising_from_weights_leaves_optimizer_and_iteration_alone(tmp_path):
    saved, kept = (nn.ParameterDict({"value": torch.tensor(value)}) for value in (3.0, 9.0))
    (tmp_path / "a").mkdir()
    DetConCheckpointer(model(), str(tmp_path / "a"), trainer=saved).save("init")
    DetConCheckpointer(model(), str(tmp_path / "b"), trainer=kept).resume_or_load(str(tmp_path / "a" / "init.pth"), resume=False)
    assert kept["value"].item() == 9.0


def test_detectron2_pickles_of_arrays_load(tmp_path):
    arrays = {key: value.numpy() + 1 for key, value in model().state_dict().items()}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "test"}))
    other = model()
    DetConCheckpointer(other, str(tmp_path / "b")).resume_or_load(str(tmp_path / "w.pkl"), resume=False)
    for key, value in other.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), arrays[key])


def test_read_metadata_of_a_missing_file_and_of_a_file_without(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*nowhere.pth"):
        read_metadata(tmp_path / "nowhere.pth")
    torch.save({"model": {}}, tmp_path / "plain.pth")
    assert read_metadata(tmp_path / "plain.pth") is None


def padded(padding: str) -> dict:
    return pretraining_metadata(pretraining_config(DETCON__BACKBONE__PADDING=padding), 100, "digest", METHOD)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("before", ["symmetric", "same", None])
def test_only_the_same_padding_resumes_and_older_checkpoints_are_symmetric(padding, before):
    found = padded(before or "symmetric")
    assert found["padding"] == (before or "symmetric")
    if before is None:
        del found["padding"]
    if padding == (before or "symmetric"):
        CheckpointMetadata(padded(padding)).load_state_dict(found)
    else:
        with pytest.raises(ValueError, match=f"padding: '{before or 'symmetric'}' in the checkpoint, '{padding}' in this run"):
            CheckpointMetadata(padded(padding)).load_state_dict(found)


def test_a_padding_that_the_backbone_does_not_have_is_not_recorded():
    cfg = pretraining_config(MODEL__BACKBONE__NAME="build_resnet_backbone", DETCON__BACKBONE__PADDING="same")
    with pytest.raises(ValueError, match="would ignore"):
        network_metadata(cfg)


def test_a_fine_tuned_checkpoint_keeps_what_its_weights_reported():
    metadata = CheckpointMetadata(VALUES)
    metadata.take_over({"epochs": 300})
    resumed = CheckpointMetadata(VALUES)
    resumed.load_state_dict(metadata.state_dict())
    assert resumed.state_dict() == VALUES | {"pretrained_epochs": 300}
