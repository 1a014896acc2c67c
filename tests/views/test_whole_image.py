"""What the loader adds for learned regions, and that it adds nothing else."""

from itertools import islice

import numpy as np
import pytest
import torch

from detcon_d2.data import build_whole_image_loader, load_training_records
from detcon_d2.io.images import read_image
from detcon_d2.views.position import position_rng
from detcon_d2.views.resize import INTERPOLATIONS, resize_cubic
from tests.data.samples import loader_of, mapper_of, samples_of
from tests.data.test_loader import batches, pretend
from tests.data.test_mapper import assert_equal_samples

KMEANS = ("DETCON.MASKS.SOURCE", "kmeans", "DETCON.MASKS.ROOTS", (), "DETCON.MASKS.KMEANS.SIZE", 48, "DETCON.MASKS.KMEANS.K_END", 20)


def test_the_whole_image_is_resized_and_otherwise_untouched(painted_set, make_cfg):
    cfg = make_cfg(painted_set, *KMEANS, "DETCON.AUG.GRAY_PROB", (1.0, 1.0))
    record = load_training_records(cfg)[3]
    sample = mapper_of(cfg)(record, 17)
    image = sample["full_image"]
    assert image.dtype == torch.uint8 and image.shape == (3, 48, 48)
    expected = resize_cubic(read_image(record["file_name"]), 48, INTERPOLATIONS["bicubic_tf"]).clip(0, 255)
    assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 0.51
    # As many numbers as the largest K of the run needs, from a stream of their own.
    np.testing.assert_array_equal(sample["kmeans_draws"].numpy(), position_rng(0, 17, 4).random(20, dtype=np.float32))
    assert sample["index"] == 3


def test_views_are_those_of_any_other_source(painted_set, make_cfg):
    opts = ("DETCON.AUG.JITTER_PROB", (0.8, 0.8), "DETCON.AUG.BLUR_PROB", (1.0, 0.1))
    other, learned = make_cfg(painted_set, *opts), make_cfg(painted_set, *opts, *KMEANS)
    for position, (a, b) in enumerate(zip(load_training_records(other), load_training_records(learned), strict=True)):
        a, b = mapper_of(other)(a, position), mapper_of(learned)(b, position)
        assert b.keys() - a.keys() == {"full_image", "kmeans_draws"}
        for view in a["views"]:
            del view["cells"], view["regions"]
        assert_equal_samples(a, {key: b[key] for key in a})


def test_regions_refreshed_by_epochs_need_the_index_only(painted_set, make_cfg):
    cfg = make_cfg(painted_set, *KMEANS, "DETCON.MASKS.KMEANS.REFRESH_EPOCHS", 1)
    sample = mapper_of(cfg)(load_training_records(cfg)[2], 0)
    assert sample["index"] == 2 and "full_image" not in sample and "cells" not in sample["views"][0]


def test_workers_change_nothing(painted_set, make_cfg):
    cfg = make_cfg(painted_set, *KMEANS)
    expected = batches(cfg, 3)
    assert "full_image" in expected[0][0]
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal_samples(batches(cfg, 3), expected)


def test_a_replacement_keeps_its_own_index(painted_set, make_cfg):
    cfg = make_cfg(painted_set, *KMEANS, "DETCON.ON_BAD_IMAGE", "skip")
    records = load_training_records(cfg)
    (painted_set.folder / "a" / "4.png").write_bytes(b"")
    for batch in islice(loader_of(cfg), 5):
        assert all(records[sample["index"]]["file_name"] == sample["file_name"] for sample in batch)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_all_images_in_their_order(painted_set, make_cfg, monkeypatch, world_size):
    cfg = make_cfg(painted_set, *KMEANS)
    records = load_training_records(cfg)
    found = []
    for rank in range(world_size):
        pretend(monkeypatch, rank, world_size)
        found += list(build_whole_image_loader(cfg, records, samples_of(cfg).whole_image, 100))
    images, draws = (torch.cat([batch[key] for batch in found]) for key in ("full_image", "kmeans_draws"))
    assert len(images) == 10
    expected = [mapper_of(cfg)(record, 100 + index) for index, record in enumerate(records)]
    assert torch.equal(images, torch.stack([sample["full_image"] for sample in expected]))
    assert torch.equal(draws, torch.stack([sample["kmeans_draws"] for sample in expected]))


def test_a_sheet_of_learned_regions_is_refused(painted_set, make_cfg):
    from detcon_d2.engine.visualize import collect_rows

    with pytest.raises(ValueError, match="SOURCE is 'kmeans'"):
        collect_rows(make_cfg(painted_set, *KMEANS), 1)


def test_fast_pixels_are_nearly_the_exact_ones(painted_set, make_cfg):
    cfg, fast = make_cfg(painted_set, *KMEANS), make_cfg(painted_set, *KMEANS, "DETCON.AUG.MODE", "fast")
    for record in load_training_records(cfg):
        a, b = (mapper_of(c)(record, 0) for c in (cfg, fast))
        assert (a["full_image"].int() - b["full_image"].int()).abs().float().mean() < 2
        assert torch.equal(a["kmeans_draws"], b["kmeans_draws"]) and "cells" not in b["views"][0]
