"""Regions of motion are the objects of the built-in clips, and nothing where nothing moves or only the camera does."""

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.images import read_image
from detcon_d2.masks import build_generator, list_images
from detcon_d2.masks.commands.arguments import sources_from
from detcon_d2.masks.flow import optical_flow
from detcon_d2.quickstart.clips import Clip, ClipsConfig, draw_clip

RNG = np.random.default_rng(0)


def write(folder, clip: Clip) -> list[dict]:
    folder.mkdir(parents=True)
    for number, frame in enumerate(clip.frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return list_images(f"video:{folder}")


def regions(records: list[dict], frame: int, **params: object) -> np.ndarray:
    return build_generator("motion", **params)(read_image(records[frame]["file_name"]), RNG, records[frame])


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / max((found | truth).sum(), 1)


@pytest.mark.parametrize("size", [(96, 96), (40, 200)])
def test_the_flow_of_a_moved_picture_is_its_motion(size):
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 256, (size[0] // 4 + 4, size[1] // 4 + 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    first, second = (picture[y : y + size[0], x : x + size[1]] for y, x in ((8, 8), (6, 5)))
    for fast in (False, True):
        flow = optical_flow(first, second, fast=fast)
        assert flow.shape == (*size, 2) and flow.dtype == np.float32
        np.testing.assert_allclose(np.median(flow, axis=(0, 1)), (3, 2), atol=0.4)
    with pytest.raises(ValueError, match="not of one clip"):
        optical_flow(first, second[1:])


def test_what_moves_is_the_foreground_of_the_built_in_clips(tmp_path):
    """Far better than the middle of the frame, where the objects are on average."""
    scores, middles = [], []
    middle = np.zeros((96, 96), bool)
    middle[28:68, 28:68] = True
    for index in range(12):
        clip = draw_clip(ClipsConfig(), "val", index)
        records = write(tmp_path / str(index), clip)
        for frame in (0, 6, 11):
            found = regions(records, frame)
            assert found.dtype == np.uint16 and found.shape == (96, 96)
            scores.append(iou(found > 0, clip.label_maps[frame] > 0))
            middles.append(iou(middle, clip.label_maps[frame] > 0))
    print(f"IoU {np.mean(scores):.3f}, least {np.min(scores):.3f}; of the middle {np.mean(middles):.3f}")
    assert np.mean(scores) > 0.55 and np.mean(scores) > np.mean(middles) + 0.2


@pytest.mark.parametrize("pan", [0.0, 3.0])
def test_nothing_moves_where_only_the_camera_does(tmp_path, pan):
    clip = draw_clip(ClipsConfig(speed=(0.0, 0.0), pan=pan, noise=1.0), "train", 0)
    records = write(tmp_path / "clip", clip)
    assert all((regions(records, frame) > 0).mean() < 0.1 for frame in (0, 5, 11))
    assert pan or not regions(records, 5).any()


def test_parts_are_numbered_and_small_ones_dropped(tmp_path):
    clip = next(clip for clip in (draw_clip(ClipsConfig(), "train", index) for index in range(20)) if len(clip.categories) == 2)
    records = write(tmp_path / "clip", clip)
    found = regions(records, 6)
    assert np.unique(found).tolist() == list(range(found.max() + 1)) and found.max() >= 1
    assert not regions(records, 6, min_area=0.9).any() and not regions(records, 6, least_motion=50).any()


def test_a_gap_longer_than_the_clip_is_the_longest_there_is(tmp_path):
    records = write(tmp_path / "clip", draw_clip(ClipsConfig(frames=3), "train", 0))
    assert np.array_equal(regions(records, 0, gap=9), regions(records, 0, gap=2))


def test_images_that_are_no_frames_are_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "clip" / "1.png")
    with pytest.raises(ValueError, match="a folder with 1 numbered frames; expected a frame of a clip of at least 2"):
        regions(list_images(f"video:{tmp_path}"), 0)
    with pytest.raises(ValueError, match="a folder with 0 numbered frames"):
        build_generator("motion")(np.zeros((9, 9, 3), np.uint8), RNG, None)


def test_label_maps_are_written_like_those_of_every_generator(run_tool, tmp_path):
    clip = draw_clip(ClipsConfig(), "train", 0)
    records = write(tmp_path / "clips" / "a", clip)
    command = ("generate_masks.py", f"video:{tmp_path / 'clips'}", tmp_path / "masks", "--generator", "motion", "--workers")
    assert run_tool(*command, 2).returncode == 0
    stored = np.asarray(Image.open(tmp_path / "masks" / "a" / "6.png.png"))
    assert np.array_equal(stored, regions(records, 6)) and len(list((tmp_path / "masks").rglob("*.png"))) == 12
    damaged = tmp_path / "clips" / "a" / "0.png"
    damaged.write_bytes(b"")
    done = run_tool(*command[:2], tmp_path / "again", *command[3:], 1)
    assert done.returncode == 1 and "FAILED a/2.png" in done.stdout and "0.png" in done.stdout


def test_it_is_no_default_source_of_still_images():
    class Arguments:
        source, masks = (), ()

    assert "motion" not in sources_from(Arguments, annotated=True)
