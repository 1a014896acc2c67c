"""A resumed run pads as before; checkpoints from before there was a choice are symmetric."""

import pytest

from detcon_d2.checkpoint.metadata import CheckpointMetadata, network_metadata, pretraining_metadata
from tests.checkpoint.pretrained import METHOD, pretraining_config


def metadata(padding: str) -> dict:
    return pretraining_metadata(pretraining_config(DETCON__BACKBONE__PADDING=padding), 100, "digest", METHOD)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
def test_the_padding_is_recorded_and_resumes(padding):
    assert metadata(padding)["padding"] == padding
    CheckpointMetadata(metadata(padding)).load_state_dict(metadata(padding))


def test_another_padding_does_not_resume():
    with pytest.raises(ValueError, match="padding: 'symmetric' in the checkpoint, 'same' in this run"):
        CheckpointMetadata(metadata("same")).load_state_dict(metadata("symmetric"))


def test_an_older_checkpoint_resumes_with_symmetric_padding_only():
    older = {key: value for key, value in metadata("symmetric").items() if key != "padding"}
    CheckpointMetadata(metadata("symmetric")).load_state_dict(older)
    with pytest.raises(ValueError, match="padding: 'symmetric' in the checkpoint, 'same' in this run"):
        CheckpointMetadata(metadata("same")).load_state_dict(older)


def test_a_padding_that_the_backbone_does_not_have_is_not_recorded():
    cfg = pretraining_config(MODEL__BACKBONE__NAME="build_resnet_backbone", DETCON__BACKBONE__PADDING="same")
    with pytest.raises(ValueError, match="would ignore"):
        network_metadata(cfg)
