"""docs/add_a_method.md does what it says: one file and one YAML pretrain, convert and fine-tune."""

import torch
from torch.nn import functional as F

from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.engine import main
from tests.conftest import tiny_opts
from tests.detectors import arguments as detector_arguments
from tests.detectors import detector_opts, write_shapes
from tests.engine.runs import arguments, metrics, results
from tests.methods import example


def test_it_pretrains_converts_and_fine_tunes(photos, tmp_path):
    args = arguments(tiny_opts(photos, tmp_path / "pretrained", DETCON__LOG_PERIOD=2))
    args.config_file = example.write_config(tmp_path)
    main(args)
    assert "loss_simclr" in metrics(tmp_path / "pretrained")[-1]
    convert(str(tmp_path / "pretrained" / "model_final.pth"), tmp_path / "backbone.pkl")
    shapes = write_shapes(tmp_path / "shapes")
    opts = detector_opts(shapes, tmp_path / "detector", MODEL__WEIGHTS=tmp_path / "backbone.pkl", SOLVER__MAX_ITER=2)
    main(detector_arguments(opts))
    assert results(tmp_path / "detector")["iteration"] == 2


def reference(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss written out, view by view."""
    views = F.normalize(torch.cat([z1, z2]), dim=1)
    total, n = 0, len(z1)
    for i, anchor in enumerate(views):
        positive = (i + n) % (2 * n)
        others = torch.stack([anchor @ other for j, other in enumerate(views) if j != i]) / temperature
        total = total + torch.logsumexp(others, 0) - anchor @ views[positive] / temperature
    return total / n


def embeddings() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, generator=generator) for _ in range(2)]


def test_its_loss_is_the_formula():
    torch.testing.assert_close(example.nt_xent_loss(*embeddings(), 0.3), reference(*embeddings(), 0.3))
    assert example.nt_xent_loss(torch.ones(1, 4), torch.rand(1, 4), 0.1) == 0
