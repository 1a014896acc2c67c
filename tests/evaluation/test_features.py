"""Frozen encoders and the features of a data set: equal to a forward pass of the original network, kept in parts, nothing changes."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.evaluation import features
from detcon_d2.evaluation.features import extract_features, whole_image
from detcon_d2.evaluation.frozen import random_encoder, trained_encoder
from detcon_d2.evaluation.labelled import list_labelled
from tests.checkpoint.pretrained import pretraining_config, rewrite
from tests.conftest import write_photos

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1), torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)

# Sums have another order in another memory layout.
assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


def random_images(count=3, side=65):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def test_features_of_torchvisions_resnet_are_its_own(tmp_path):
    model = torchvision.models.resnet18().eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    torch.save(model.state_dict(), tmp_path / "resnet18.pth")
    images = random_images()
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = model((images - MEAN) / STD)
    assert_close(trained_encoder(read_checkpoint(tmp_path / "resnet18.pth"))(images), expected)


@pytest.mark.parametrize(("branch", "module"), [("online", "encoder"), ("ema", "target.encoder")])
def test_features_of_a_pretraining_checkpoint_are_the_mean_over_its_encoders_cells(pretrained, branch, module):
    model = d2.build_model(pretraining_config()).eval()
    model.load_state_dict(torch.load(pretrained, weights_only=True)["model"])
    images = random_images()
    with torch.no_grad():
        expected = model.get_submodule(module)((images - MEAN) / STD)["res5"].mean(dim=(2, 3))
    assert_close(trained_encoder(read_checkpoint(pretrained, branch=branch))(images), expected)


def test_pixel_statistics_and_channel_order_are_those_of_the_checkpoint(pretrained, tmp_path):
    def change(data):
        data["metadata"] |= {"channel_order": "BGR", "pixel_mean": [10.0, 20.0, 30.0], "pixel_std": [2.0, 4.0, 8.0]}

    encoder = trained_encoder(read_checkpoint(rewrite(pretrained, tmp_path / "bgr.pth", change)))
    images = random_images()
    plain = trained_encoder(read_checkpoint(pretrained))
    pixels = (images.flip(1) - torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)) / torch.tensor([2.0, 4.0, 8.0]).view(3, 1, 1)
    assert_close(encoder(images), plain.network(pixels)["res5"].mean(dim=(2, 3)))


def test_extraction_changes_no_tensor_of_the_encoder_even_after_train(pretrained, photos, tmp_path):
    encoder = trained_encoder(read_checkpoint(pretrained))
    before = copy.deepcopy(encoder.state_dict())
    encoder.train()
    extract_features(encoder, list_labelled(f"folder:{photos}", "train"), tmp_path, size=64)
    after = encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_a_random_encoder_is_the_config_seeds_and_changes_no_generator():
    state = torch.random.get_rng_state()
    first, same, other = (random_encoder(pretraining_config(SEED=seed)) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.digest() == same.digest() != other.digest()


def test_a_random_encoder_starts_as_pretraining_does():
    cfg = pretraining_config(SEED=3, DETCON__ZERO_INIT_RESIDUAL=True)
    torch.manual_seed(3)
    expected = d2.build_model(cfg).encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in random_encoder(cfg).network.state_dict().items())


def test_an_image_is_resized_by_its_shorter_side_and_cut_at_the_centre():
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)
    resized = Image.fromarray(image).resize((384, 256), Image.Resampling.BICUBIC).crop((80, 16, 304, 240))
    assert np.array_equal(whole_image(image, 224).permute(1, 2, 0), np.asarray(resized))
    assert np.array_equal(whole_image(image, None).permute(1, 2, 0), image)


@pytest.fixture
def small_parts(monkeypatch):
    """One batch per part."""
    monkeypatch.setattr(features, "_BATCHES_PER_PART", 1)


def test_features_are_in_the_order_of_the_images_for_any_number_of_workers(pretrained, photos, tmp_path, small_parts):
    encoder, images = trained_encoder(read_checkpoint(pretrained)), list_labelled(f"folder:{photos}", "train")
    pixels = torch.stack([whole_image(np.asarray(Image.open(file)), 64) for file in images.files])
    for workers in (0, 2):
        found = extract_features(encoder, images, tmp_path / str(workers), size=64, batch_size=5, num_workers=workers)
        assert found.dtype == torch.float32
        assert_close(found, encoder(pixels))


def test_an_interrupted_extraction_continues_to_the_same_bits(pretrained, photos, tmp_path, small_parts):
    encoder, images = trained_encoder(read_checkpoint(pretrained)), list_labelled(f"folder:{photos}", "train")
    options = {"size": 64, "batch_size": 5}
    expected = extract_features(encoder, images, tmp_path / "whole", **options)
    sizes = []

    def stop(module, inputs):
        sizes.append(len(inputs[0]))
        if len(sizes) == 2:
            raise KeyboardInterrupt

    encoder.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        extract_features(encoder, images, tmp_path / "parts", **options)
    assert torch.equal(extract_features(encoder, images, tmp_path / "parts", **options), expected)
    assert torch.equal(extract_features(encoder, images, tmp_path / "parts", **options), expected)
    assert sizes == [5, 5, 5, 2]


def test_other_weights_images_and_sizes_have_features_of_their_own(pretrained, photos, tmp_path):
    online, ema = (trained_encoder(read_checkpoint(pretrained, branch=branch)) for branch in ("online", "ema"))
    images, others = (
        list_labelled(f"folder:{photos}", "train"),
        list_labelled(f"folder:{write_photos(tmp_path / 'b', 12, seed=1)}", "train"),
    )
    found = [
        extract_features(encoder, data, tmp_path / "features", size=size)
        for encoder, data, size in [(online, images, 64), (ema, images, 64), (online, others, 64), (online, images, 96)]
    ]
    assert not any(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_one_line_with_its_name(pretrained, tmp_path, workers):
    (write_photos(tmp_path / "photos", count=4) / "a/002.png").write_bytes(b"\x89PNG")
    encoder, images = trained_encoder(read_checkpoint(pretrained)), list_labelled(f"folder:{tmp_path / 'photos'}", "train")
    with pytest.raises(ValueError, match=r"^cannot read image .*002\.png: .* Repair it or remove it from the data set\.$"):
        extract_features(encoder, images, tmp_path / "features", size=64, num_workers=workers)


def test_images_of_several_sizes_need_a_size(pretrained, tmp_path):
    Image.new("RGB", (40, 50)).save(write_photos(tmp_path / "photos", count=4) / "a/002.png")
    encoder, images = trained_encoder(read_checkpoint(pretrained)), list_labelled(f"folder:{tmp_path / 'photos'}", "train")
    with pytest.raises(ValueError, match=r"Found images of 50 x 40 and 72 x 96 pixels; expected one size\. Give --size 224, for example\."):
        extract_features(encoder, images, tmp_path / "features", size=None)


def test_features_that_are_not_finite_are_refused(pretrained, photos, tmp_path):
    encoder = trained_encoder(read_checkpoint(pretrained))
    with torch.no_grad():
        encoder.network.stem.conv1.weight.fill_(3e38)
    with pytest.raises(ValueError, match="features are not finite: the pretraining diverged"):
        extract_features(encoder, list_labelled(f"folder:{photos}", "train"), tmp_path, size=64)
