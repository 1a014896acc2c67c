"""Jigsaw and Jigsaw++: the label is the order, foreign tiles come with the sample, and flaws of the pictures do not solve the puzzle."""

import itertools
import math

import numpy as np
import pytest
import torch

from detcon_d2.data import PretrainingMapper, build_pretraining_loader
from detcon_d2.data.mapper import Companions
from detcon_d2.engine.visualize import collect_rows
from detcon_d2.views.patches import Patches
from detcon_d2.views.permutations import permutations
from tests.conftest import write_photos
from tests.data.test_mapper import assert_equal_samples
from tests.methods.test_contract import batch_of, build
from tests.methods.tiles import cheats

PLUS = {"DETCON__JIGSAW__FOREIGN_TILES": 2}
COUNT = 60
ORDERS = torch.from_numpy(permutations("agl9").copy())


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (90, 120, 3)).astype(np.uint8)


def test_a_place_shows_the_tile_that_the_permutation_names(photos):
    cfg, _, samples, _ = build("Jigsaw", photos)
    in_order = Patches.from_config(cfg, 32)
    for position in range(5):
        shown, plain = samples(picture(0), None, position), in_order(picture(0), None, position)
        order = samples.permutations[int(shown["permutation"])]
        assert_equal_samples([{"views": shown["views"]}], [{"views": [plain["views"][tile] for tile in order]}])
        assert torch.equal(shown["colors"], plain["colors"])


def test_foreign_tiles_are_those_of_the_same_places_and_the_rest_is_the_sample_without_them(photos):
    _, _, plain, _ = build("Jigsaw", photos)
    _, _, samples, _ = build("Jigsaw", photos, **PLUS)
    assert samples.needs_partner and not plain.needs_partner
    counts = []
    for position in range(12):
        found = samples(picture(0), None, position, picture(1))
        own, other = plain(picture(0), None, position), plain(picture(1), None, position)
        foreign = [not torch.equal(a["image"], b["image"]) for a, b in zip(found["views"], own["views"])]
        assert sum(foreign) == int(found["foreign"])
        expected = [b if is_foreign else a for a, b, is_foreign in zip(own["views"], other["views"], foreign)]
        assert_equal_samples([found], [own | {"views": expected, "foreign": found["foreign"]}])
        counts.append(sum(foreign))
    assert set(counts) == {0, 1, 2}


def test_the_number_of_foreign_tiles_is_uniform_and_all_orders_appear(photos):
    _, _, samples, _ = build("Jigsaw", photos, **PLUS)
    found = [samples.sample_puzzle(position) for position in range(3000)]
    assert abs(np.mean([count for _, count, _ in found]) - 1) < 3 * math.sqrt(2 / 3 / 3000)
    numbers = np.bincount([number for number, *_ in found], minlength=72)
    assert len(numbers) == 72 and np.square(numbers - 3000 / 72).sum() / (3000 / 72) < 71 + 3 * math.sqrt(142)  # chi-squared


def test_partners_are_other_images_and_depend_on_the_position_alone(photos):
    cfg, _, samples, records = build("Jigsaw", photos, **PLUS)
    for position in range(40):
        index = position % len(records)
        partner = Companions(samples, 0, position, np.arange(len(records)))(records, index)["partner"]
        assert partner in records and partner is not records[index]
    assert Companions(samples, 0, 0, np.arange(1))(records[:1], 0)["partner"] is records[0]
    batches = list(itertools.islice(build_pretraining_loader(cfg, records, samples), 3))
    assert any(int(sample["foreign"]) for batch in batches for sample in batch)
    cfg.DATALOADER.NUM_WORKERS = 2
    for a, b in zip(batches, build_pretraining_loader(cfg, records, samples)):
        assert_equal_samples(a, b)
    cfg.DATALOADER.NUM_WORKERS = 0
    for a, b in zip(batches[1:], build_pretraining_loader(cfg, records, samples, start_iteration=1)):
        assert_equal_samples(a, b)
    mapper = PretrainingMapper.from_config(cfg, samples)
    index = next(i for i, record in enumerate(records) if record["image_id"] == batches[0][1]["image_id"])
    assert_equal_samples([mapper(Companions(samples, 0, 1, np.arange(len(records)))(records, index), 1)], [batches[0][1]])


def test_the_sheet_shows_the_samples_of_training(photos):
    cfg, _, samples, records = build("Jigsaw", photos, **PLUS)
    batch = next(iter(build_pretraining_loader(cfg, records, samples)))
    assert_equal_samples([row.sample for row in collect_rows(cfg, 4)], batch)


def test_a_partner_that_cannot_be_read_is_replaced(tmp_path):
    folder = write_photos(tmp_path / "photos", 4)
    cfg, _, samples, records = build("Jigsaw", folder, **PLUS, DETCON__ON_BAD_IMAGE="skip")
    (folder / "b" / "003.png").write_bytes(b"no image")
    for batch in itertools.islice(build_pretraining_loader(cfg, records, samples), 4):
        assert all("003" not in sample["file_name"] for sample in batch)
    cfg.DETCON.ON_BAD_IMAGE = "refuse"
    with pytest.raises(ValueError, match=r"003\.png.*or its partner"):
        list(itertools.islice(build_pretraining_loader(cfg, records, samples), 4))


def solved(tiles: torch.Tensor, batch: list[dict], cues: torch.Tensor, places: torch.Tensor) -> float:
    """Accuracy of a solver that takes the order for which ``cues`` (N, 9, k) agree best with what the true ``places`` (9, k) would show."""
    scores = torch.einsum("nik,pik->np", cues.double(), places.double()[ORDERS])
    return (scores.argmax(1) == torch.stack([sample["permutation"] for sample in batch])).double().mean().item()


GRID = torch.tensor([(column - 1.0, row - 1.0) for row in range(3) for column in range(3)])


@pytest.mark.parametrize("guard", ["project", "drop", "gray"])
def test_aberration_solves_the_puzzle_unless_a_guard_takes_it_out(photos, guard):
    pictures = [cheats.aberrated(seed, 1.0, 1.03, 1.0) for seed in range(COUNT)]
    options = {"DETCON__AUG__GRAY_PROB": "(1.0, 1.0)"} if guard == "gray" else {"DETCON__PATCHES__COLOR": guard}
    found = []
    for overrides in ({}, options):
        tiles, batch = cheats.tiles_of("Jigsaw", photos, pictures, **overrides)
        found.append(solved(tiles, batch, cheats.displacements(tiles, (0, 1, 0), (0.5, 0, 0.5)), GRID))
    assert found[0] > 0.9 and cheats.within(found[1], 1 / 72, COUNT)


@pytest.mark.parametrize("normalize", ["none", "tile"])
def test_brightness_solves_the_puzzle_unless_tiles_are_normalised(photos, normalize):
    pictures = [cheats.ramp(seed) for seed in range(COUNT)]
    tiles, batch = cheats.tiles_of("Jigsaw", photos, pictures, DETCON__PATCHES__NORMALIZE=normalize)
    brightness = tiles.mean((2, 3, 4)).round(decimals=4)[..., None]
    found = solved(tiles, batch, brightness, GRID[:, :1])
    assert found > 0.2 if normalize == "none" else cheats.within(found, 1 / 72, COUNT)


def test_metrics_by_the_number_of_foreign_tiles_and_right_places(photos):
    model, _ = batch_of("Jigsaw", photos, 2, **PLUS)
    logits = torch.zeros(3, 72).scatter(1, torch.tensor([[4], [0], [7]]), 1.0)
    answers = {"labels": torch.tensor([4, 71, 7]), "foreign": torch.tensor([0, 1, 1]), "features": torch.ones(3, 4)}
    found = model.metrics({"logits": logits} | answers)
    assert found["accuracy"] == pytest.approx(2 / 3) and found["chance"] == pytest.approx(1 / 72)
    assert [float(found[f"accuracy_foreign_{n}"]) for n in range(3)] == [1, 0.5, 0]
    assert found["right_places"] == pytest.approx((9 + 1 + 9) / 27)  # orders 0 and 71 share the middle


def test_too_many_permutations_for_the_images_are_warned_about(photos):
    cfg, model, _, _ = build("Jigsaw", photos)
    assert model.doubts(cfg, 3600) == []
    assert "makes 72 classes of 3599 training images; expected at most 71" in model.doubts(cfg, 3599)[0]
