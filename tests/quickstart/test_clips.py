"""The ground truth of the built-in clips is true: flow carries frames onto each other, masks are the objects, and frames are in order."""

import cv2
import numpy as np
import pytest

from detcon_d2.io.images import read_image
from detcon_d2.masks import build_generator, list_images
from detcon_d2.quickstart.clips import ClipsConfig, draw_clip, generate_clips

CLEAR = ClipsConfig(noise=0.0)


def test_a_clip_depends_on_seed_split_and_index_alone():
    one, again = draw_clip(CLEAR, "train", 3), draw_clip(CLEAR, "train", 3)
    assert all(np.array_equal(a, b) for a, b in zip(one, again))
    others = [draw_clip(CLEAR, "val", 3), draw_clip(CLEAR, "train", 4), draw_clip(ClipsConfig(seed=1, noise=0.0), "train", 3)]
    assert not any(np.array_equal(one.frames, other.frames) for other in others)


@pytest.mark.parametrize("index", range(8))
def test_the_flow_carries_each_frame_onto_a_later_one(index):
    clip, gap = draw_clip(CLEAR, "train", index), 2
    for frame in range(0, 10, 3):
        flow, size = clip.flow(frame, gap), CLEAR.size
        x, y = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32))
        to = x + flow[..., 0], y + flow[..., 1]
        later = cv2.remap(clip.frames[frame + gap], *to, cv2.INTER_LINEAR).astype(float)
        region = cv2.remap(clip.label_maps[frame + gap], *to, cv2.INTER_NEAREST)
        inside = (to[0] >= 1) & (to[0] < size - 1) & (to[1] >= 1) & (to[1] < size - 1)
        # Where it shows the same object in both frames, away from antialiased edges.
        kept = inside & (region == clip.label_maps[frame])
        edges = cv2.dilate(cv2.Laplacian(clip.label_maps[frame].astype(np.float32), cv2.CV_32F), np.ones((5, 5))) != 0
        errors = np.abs(later - clip.frames[frame])[kept & ~edges]
        still = np.abs(clip.frames[frame + gap].astype(float) - clip.frames[frame])[kept & ~edges]
        assert kept.mean() > 0.7 and np.median(errors) <= 5 and errors.mean() < 0.5 * still.mean()


def test_every_object_is_in_every_frame_and_moves_against_the_background():
    clips = [draw_clip(CLEAR, "train", index) for index in range(20)]
    for clip in clips:
        assert clip.label_maps.max() == len(clip.categories) == len(clip.velocities) - 1
        assert ((clip.label_maps == len(clip.categories)).sum((1, 2)) > 150).all()
        speeds = np.linalg.norm(clip.velocities[1:] - clip.velocities[0], axis=1)
        assert (speeds >= CLEAR.speed[0] - 1e-9).all() and (speeds <= CLEAR.speed[1] + 1e-9).all()
    assert {len(clip.categories) for clip in clips} == {1, 2}


def test_frames_of_a_static_clip_are_equal():
    clip = draw_clip(ClipsConfig(speed=(0.0, 0.0), pan=0.0, noise=0.0), "train", 0)
    assert (clip.frames == clip.frames[0]).all() and (clip.label_maps == clip.label_maps[0]).all() and not clip.velocities.any()


def test_clips_that_would_leave_the_frame_are_refused():
    with pytest.raises(ValueError, match=r"objects travel up to 124 px; expected .* at most 0\.6 of the side"):
        ClipsConfig(frames=32)


def test_written_clips_are_a_video_with_importable_masks(tmp_path):
    folders = generate_clips(tmp_path, CLEAR, {"train": 3, "val": 2})
    records = list_images(f"video:{folders['train']}")
    assert len(records) == 36 and len({record["clip"] for record in records}) == 3 and "label" in records[0]
    clips = {f"{index:04d}": draw_clip(CLEAR, "train", index) for index in range(3)}
    masks = build_generator("imported", masks=str(tmp_path / "train-masks"))
    for number, record in enumerate(records[:24]):
        clip = clips[record["clip"].split("/")[1]]
        image = read_image(record["file_name"])
        assert np.array_equal(image, clip.frames[number % 12])
        assert np.array_equal(masks(image, np.random.default_rng(0), record), clip.label_maps[number % 12])
    before = (tmp_path / "train.done").stat().st_mtime_ns
    assert generate_clips(tmp_path, CLEAR, {"train": 3})["train"] == folders["train"]
    assert (tmp_path / "train.done").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"was generated with .* Name another folder"):
        generate_clips(tmp_path, ClipsConfig(), {"train": 3})
