"""DefaultPredictor: one BGR image in, one output out."""

import numpy as np
import pytest
import torch
from torch import nn

NAME = "DetconTestPredictorModel"


@pytest.fixture
def cfg(backend, tmp_path):
    """:func:`make_cfg` for each backend."""
    return make_cfg(backend, tmp_path)


def make_cfg(backend, tmp_path):
    """A config of a model that returns its input and one weight, with a checkpoint in which that is 5."""
    registry = backend.get("modeling").META_ARCH_REGISTRY
    if NAME not in registry:

        class Echo(nn.Module):
            def __init__(self, cfg):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, inputs):
                return [one | {"weight": self.weight, "training": self.training, "grad": torch.is_grad_enabled()} for one in inputs]

        Echo.__name__ = NAME
        registry.register(Echo)
    torch.save({"model": {"weight": torch.tensor([5.0])}}, tmp_path / "w.pth")
    cfg = backend.get("config").get_cfg()
    cfg.MODEL.META_ARCHITECTURE = NAME
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(tmp_path / "w.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 20, 30
    return cfg


def image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_model_gets_one_resized_float_image_with_its_first_size(backend, cfg):
    output = backend.get("engine").DefaultPredictor(cfg)(image(40, 50))
    assert (output["height"], output["width"]) == (40, 50)
    assert output["image"].shape == (3, 20, 25)
    assert output["image"].dtype == torch.float32
    assert (output["training"], output["grad"]) == (False, False)
    assert output["weight"].item() == 5


def test_the_long_side_is_limited(backend, cfg):
    assert backend.get("engine").DefaultPredictor(cfg)(image(40, 120))["image"].shape == (3, 10, 30)


@pytest.mark.parametrize("format", ["RGB", "BGR"])
def test_channels_come_in_the_order_of_the_config(backend, cfg, format):
    cfg.INPUT.FORMAT = format
    blue = np.zeros((20, 20, 3), dtype=np.uint8)
    blue[..., 0] = 200
    means = backend.get("engine").DefaultPredictor(cfg)(blue)["image"].mean(dim=(1, 2)).tolist()
    assert means == ([0, 0, 200] if format == "RGB" else [200, 0, 0])


def test_the_image_given_is_not_changed(backend, cfg):
    given = image(40, 50)
    before = given.copy()
    backend.get("engine").DefaultPredictor(cfg)(given)
    assert np.array_equal(given, before)


def test_other_formats_are_refused(backend, cfg):
    cfg.INPUT.FORMAT = "L"
    with pytest.raises((AssertionError, ValueError), match="L"):
        backend.get("engine").DefaultPredictor(cfg)


def test_metadata_are_those_of_the_test_set(backend, cfg):
    cfg.DATASETS.TEST = ("detcon_test_predictor_set",)
    predictor = backend.get("engine").DefaultPredictor(cfg)
    assert predictor.metadata is backend.get("data").MetadataCatalog.get("detcon_test_predictor_set")


def test_both_backends_hand_the_model_the_same_pixels(subset, real, tmp_path):
    images = [backend.get("engine").DefaultPredictor(make_cfg(backend, tmp_path))(image(37, 53))["image"] for backend in (subset, real)]
    assert torch.equal(*images)
