"""Shuffle and Learn: the label is the order of the frames, nothing but motion tells it, and windows of high motion are chosen."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.video.shuffle_and_learn import WINDOW, most_motion
from detcon_d2.quickstart.clips import ClipsConfig, draw_clip
from tests.methods.test_contract import batch_of, build

PLAIN = {f"DETCON__AUG__{name}_PROB": "(0.0, 0.0)" for name in ("JITTER", "GRAY", "BLUR", "SOLARIZE")}
FIVE = {"DETCON__SHUFFLE_AND_LEARN__FRAMES": 5}
STILL = ClipsConfig(speed=(0.0, 0.0), pan=0.0, noise=0.0)


def times_and_label(samples, position: int) -> tuple[list[int], int]:
    """The numbers of the frames that are shown, from frames whose pixels are their number."""
    frames = [np.full((70, 90, 3), 50 * number, np.uint8) for number in range(5)]
    sample = samples(frames[0], None, position, frames=frames)
    return [round(float(view["image"].mean()) * 255 / 50) for view in sample["views"]], int(sample["ordered"])


def test_the_second_frame_is_between_the_others_where_the_label_says_so(photos):
    _, _, samples, _ = build("ShuffleAndLearn", photos, **PLAIN, **FIVE)
    found = [times_and_label(samples, position) for position in range(400)]
    assert all((min(a, c) < b < max(a, c)) == bool(label) and {a, c} == {1, 3} for (a, b, c), label in found)
    assert {tuple(times) for times, _ in found} == {(1, 2, 3), (3, 2, 1), (1, 0, 3), (3, 0, 1), (1, 4, 3), (3, 4, 1)}
    assert abs(np.mean([label for _, label in found]) - 0.25) < 0.1  # 4.6 standard deviations


def test_frames_without_motion_do_not_tell_the_label(photos):
    """The three views are the same picture whatever the label, so no classifier is better than the best guess."""
    _, _, samples, _ = build("ShuffleAndLearn", photos, DETCON__SHUFFLE_AND_LEARN__ORDERED=0.5)
    frames = list(draw_clip(STILL, "train", 0).frames[:6])
    by_label: dict[int, int] = {0: 0, 1: 0}
    for position in range(30):
        sample = samples(frames[0], None, position, frames=frames)
        first, *others = [view["image"] for view in sample["views"]]
        assert all(torch.equal(first, other) for other in others)
        by_label[int(sample["ordered"])] += 1
    assert min(by_label.values()) > 5


def test_the_window_has_the_most_motion():
    still = list(draw_clip(STILL, "train", 1).frames)
    moving = list(draw_clip(ClipsConfig(), "train", 1).frames[:WINDOW])
    for before in range(4):
        frames = [moving[0]] * before + moving + [moving[-1]] * (3 - before)
        assert most_motion(frames, WINDOW) == before
    assert most_motion(still[:9], WINDOW) == 0 and most_motion(still[:5], WINDOW) == 0


def test_views_share_crop_and_colours(photos):
    _, _, samples, _ = build("ShuffleAndLearn", photos, **FIVE)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    views = samples(image, None, 7, frames=[image] * 5)["views"]
    assert len(views) == 3 and all(torch.equal(view["box"], views[0]["box"]) for view in views)


def test_accuracy_is_counted_by_class_next_to_the_best_guess(photos):
    model, _ = batch_of("ShuffleAndLearn", photos, 4)
    found = {"logits": torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]]), "labels": torch.tensor([0, 0, 1, 1]), "features": torch.ones(4, 3)}
    metrics = model.metrics(found)
    names = ("accuracy", "accuracy_ordered", "accuracy_shuffled", "chance")
    assert [float(metrics[name]) for name in names] == [0.75, 0.5, 1, 0.75]


def test_a_frame_is_told_by_its_place_in_the_triplet(photos):
    """The head sees the frames side by side: swapping the first two changes the answer, and without it the logits are the same."""
    model, batch = batch_of("ShuffleAndLearn", photos, 4, **PLAIN)
    model.eval().training = True  # BatchNorm uses its running statistics
    with d2.EventStorage(), torch.no_grad():
        logits = model.embed(batch)["logits"]
        swapped = [sample | {"views": [sample["views"][place] for place in (1, 0, 2)]} for sample in batch]
        assert torch.equal(model.embed(batch)["logits"], logits) and not torch.allclose(model.embed(swapped)["logits"], logits)


@pytest.mark.parametrize(("key", "value"), [("FRAMES", 4), ("GAPS", "(0, 0)"), ("ORDERED", 1.0), ("HIDDEN_DIM", -1)])
def test_values_out_of_range_are_refused(key, value, photos):
    cfg, model, _, _ = build("ShuffleAndLearn", photos)
    cfg.merge_from_list([f"DETCON.SHUFFLE_AND_LEARN.{key}", value])
    assert [name for fulfilled, name, *_ in model.check_config(cfg) if not fulfilled] == [f"DETCON.SHUFFLE_AND_LEARN.{key}"]
