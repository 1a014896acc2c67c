"""The encoder of a run is loaded whole or not at all, and images become maps of their own size."""

import shutil

import numpy as np
import pytest
import torch

from detcon_d2.evaluation.encoders import encode_images, load_encoder


def test_the_trained_encoder_has_the_weights_of_the_checkpoint_and_the_untrained_one_is_always_the_same(quickstart):
    run = quickstart / "detcon_b/pretrain"
    saved = torch.load(run / "model_final.pth", weights_only=True)["model"]
    before = torch.random.get_rng_state()
    trained, first, second = (load_encoder(run, trained=flag).encoder.state_dict() for flag in (True, False, False))
    assert torch.equal(before, torch.random.get_rng_state())
    for key, value in trained.items():
        assert torch.equal(value, saved[f"encoder.{key}"]) and torch.equal(first[key], second[key])
    assert not torch.equal(first["res2.0.conv1.weight"], trained["res2.0.conv1.weight"])


def test_a_checkpoint_without_a_parameter_of_the_encoder_is_refused_by_name(quickstart, tmp_path):
    shutil.copytree(quickstart / "detcon_b/pretrain", tmp_path / "run")
    path = tmp_path / "run/model_final.pth"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["model"]["encoder.res3.0.conv2.weight"]
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"model_final\.pth does not fit .*config\.yaml: expected also encoder\.res3\.0\.conv2\.weight"):
        load_encoder(tmp_path / "run")


def test_images_have_one_cell_for_every_stride_of_their_enlarged_size(quickstart):
    model = load_encoder(quickstart / "detcon_b/pretrain")
    images = [np.random.default_rng(i).integers(0, 255, (64, 32, 3)).astype(np.uint8) for i in range(2)]
    maps = encode_images(model, images, 3.0)
    channels = model.encoder.output_shape()["res5"].channels
    assert [tuple(features.shape) for features in maps] == [(channels, 6, 3)] * 2
    assert not model.encoder.training


def test_batch_norm_uses_the_images_statistics_not_the_stored_ones(quickstart):
    images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3)).astype(np.uint8) for i in range(2)]
    model, disturbed = (load_encoder(quickstart / "detcon_b/pretrain") for _ in range(2))
    for name, buffer in disturbed.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(100.0)
    for found, expected in zip(encode_images(disturbed, images, 1.0), encode_images(model, images, 1.0)):
        torch.testing.assert_close(found, expected)
