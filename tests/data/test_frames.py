"""Frames of a clip come with the sample: equal gaps within one clip, by position alone, and with errors that say what to do."""

import logging
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from detcon_d2.data import build_pretraining_loader, load_training_records
from detcon_d2.data.mapper import Companions, sample_frames
from detcon_d2.views.samplers import SampleMaker
from tests.data.test_mapper import assert_equal_samples


class Frames(SampleMaker):
    """The value of each frame, which is its number."""

    needs_frames = 3
    frame_gaps = (2, 3)

    @classmethod
    def from_config(cls, cfg, stride):
        return cls()

    def __call__(self, image, label_map, position, frames):
        assert frames[0] is image
        return {"views": [{"image": torch.from_numpy(frame.copy())} for frame in frames]}


def write_clip(folder, frames: int, first: int = 0):
    folder.mkdir(parents=True)
    for number in range(frames):
        Image.fromarray(np.full((8, 8, 3), first + number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def clips(tmp_path):
    for number, frames in enumerate((5, 12, 7)):
        write_clip(tmp_path / "clips" / f"clip{number}", frames, 50 * number)
    return tmp_path / "clips"


@pytest.fixture
def cfg(clips, make_cfg):
    cfg = make_cfg(None, "DETCON.MASKS.SOURCE", "grid", "DATASETS.TRAIN", (f"video:{clips}",))
    cfg.SOLVER.IMS_PER_BATCH = 4
    return cfg


def batches(cfg, count, samples=None, **arguments):
    return list(islice(build_pretraining_loader(cfg, load_training_records(cfg, regions=False), samples or Frames(), **arguments), count))


def test_records_know_the_span_of_their_clip_also_over_data_sets(cfg, clips):
    assert [record["clip"] for record in load_training_records(cfg, regions=False)] == [(0, 5)] * 5 + [(5, 17)] * 12 + [(17, 24)] * 7
    cfg.DATASETS.TRAIN = (f"video:{clips / 'clip0'}", f"video:{clips / 'clip2'}")
    assert [record["clip"] for record in load_training_records(cfg, regions=False)] == [(0, 5)] * 5 + [(5, 12)] * 7


def test_frames_are_of_one_clip_in_order_at_every_gap_that_fits(cfg):
    found = [[int(view["image"][0, 0, 0]) for view in sample["views"]] for batch in batches(cfg, 60) for sample in batch]
    assert all(a // 50 == c // 50 and b - a == c - b for a, b, c in found)
    gaps = {clip: {b - a for a, b, _ in found if a // 50 == clip} for clip in range(3)}
    assert gaps == {0: {2}, 1: {2, 3}, 2: {2, 3}}  # 5 frames have room for no gap of 3
    assert {a - 50 for a, b, _ in found if a // 50 == 1 and b - a == 2} == set(range(8))


def test_without_a_largest_gap_frames_span_the_clip():
    samples = Frames()
    samples.frame_gaps = (1, 0)
    found = {tuple(sample_frames((10, 17), samples, np.random.default_rng(seed))) for seed in range(200)}
    assert (10, 13, 16) in found and (14, 15, 16) in found and all(10 <= a < b < c < 17 for a, b, c in found)


def test_the_sample_names_the_frame_that_is_its_image(cfg):
    for sample in batches(cfg, 1)[0]:
        clip, number = sample["file_name"].removesuffix(".png").split("/")[-2:]
        assert int(sample["views"][0]["image"][0, 0, 0]) == 50 * int(clip[-1]) + int(number)


def test_workers_processes_and_resuming_change_nothing(cfg, monkeypatch):
    expected = batches(cfg, 3)
    assert_equal_samples(batches(cfg, 2, start_iteration=1), expected[1:])
    cfg.DATALOADER.NUM_WORKERS = 2
    assert_equal_samples(batches(cfg, 3), expected)


def test_partners_are_what_they_were_before_there_were_frames():
    class Partner(Frames):
        needs_partner, needs_frames = True, 0

    records = [{"key": str(number)} for number in range(50)]
    expected = np.random.default_rng([3, 7, 9])
    companions = Companions(Partner(), 3, 7, np.arange(50))
    for _ in range(3):
        partner = int(expected.integers(49))
        assert companions(records, 20)["partner"]["key"] == str(partner + (partner >= 20))


def test_images_that_are_no_frames_are_refused(cfg, clips):
    cfg.DATASETS.TRAIN = (f"folder:{clips}",)
    with pytest.raises(ValueError, match=r"images such as clip0/0\.png, which are no frames of a clip; expected clips alone.*video:/path"):
        batches(cfg, 1)


def test_short_clips_are_refused_with_their_length(cfg, clips):
    write_clip(clips / "clip3", 4)
    with pytest.raises(ValueError, match=r"The clip of clip3/0\.png has 4 frames; expected at least 5: 3 at gaps of 2 or more\. Remove"):
        batches(cfg, 1)


def test_tiles_of_frames_are_refused(cfg, clips):
    write_clip(clips / "large", 5)
    Image.new("RGB", (80, 80)).save(clips / "large" / "0.png")
    cfg.DETCON.DATA.TILES = 64
    with pytest.raises(ValueError, match=r"DETCON\.DATA\.TILES cuts frames"):
        batches(cfg, 1)


def test_unreadable_frames_follow_on_bad_image(cfg, clips, caplog):
    broken = clips / "clip1" / "6.png"
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=r"6\.png.*or a frame of its clip, at position.*ON_BAD_IMAGE skip"):
        batches(cfg, 20)
    cfg.DETCON.ON_BAD_IMAGE = "skip"
    with caplog.at_level(logging.WARNING):
        found = batches(cfg, 20)
    assert sum(str(broken) in record.getMessage() for record in caplog.records) == 1
    assert 56 not in {int(view["image"][0, 0, 0]) for batch in found for sample in batch for view in sample["views"]}
    cfg.DATALOADER.NUM_WORKERS = 1
    assert_equal_samples(batches(cfg, 20), found)
