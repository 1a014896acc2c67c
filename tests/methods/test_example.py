"""docs/add_a_method.md does what it says: one file and one YAML pretrain, convert and fine-tune."""

import itertools

import torch

from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.engine import main
from tests.conftest import tiny_opts
from tests.detectors import arguments as detector_arguments
from tests.detectors import detector_opts, write_shapes
from tests.engine.runs import arguments, metrics, results
from tests.methods import example


def test_the_example_is_short():
    assert len(example.block("python").splitlines()) <= 100


def test_it_pretrains_converts_and_fine_tunes(photos, tmp_path):
    args = arguments(tiny_opts(photos, tmp_path / "pretrained", DETCON__LOG_PERIOD=2))
    args.config_file = example.write_config(tmp_path)
    main(args)
    assert "loss_barlow_twins" in metrics(tmp_path / "pretrained")[-1]
    convert(str(tmp_path / "pretrained" / "model_final.pth"), tmp_path / "backbone.pkl")
    shapes = write_shapes(tmp_path / "shapes")
    opts = detector_opts(shapes, tmp_path / "detector", MODEL__WEIGHTS=tmp_path / "backbone.pkl", SOLVER__MAX_ITER=2)
    main(detector_arguments(opts))
    assert results(tmp_path / "detector")["iteration"] == 2


def reference(z1: torch.Tensor, z2: torch.Tensor, weight: float) -> torch.Tensor:
    """The loss written out, correlation by correlation."""
    total = 0
    for i, j in itertools.product(range(z1.shape[1]), repeat=2):
        a, b = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
        c = (a * b).mean() / ((a.square().mean() + 1e-5) * (b.square().mean() + 1e-5)).sqrt()
        total = total + ((1 - c) ** 2 if i == j else weight * c**2)
    return total


def embeddings() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, generator=generator) for _ in range(2)]


def test_its_loss_is_the_formula():
    torch.testing.assert_close(example.barlow_twins_loss(*embeddings(), 0.3), reference(*embeddings(), 0.3))
