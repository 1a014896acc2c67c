"""Whole runs: the result depends neither on workers nor on interruptions, and what fails is said."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from detcon_d2.masks import LabelMapStore, build_generator, create_store, grid_label_map, list_images, open_store, read_label_map
from detcon_d2.masks.generate import generate
from detcon_d2.masks.generators.registry import GridRegions
from tests.conftest import PATIENCE, REPO, write_photos

FH = {"scale": 100.0, "min_size": 50}


def run(source: str, output: Path, generator=None, workers: int = 1, records: list[dict] | None = None):
    generator = generator or build_generator("fh", **FH)
    store = LabelMapStore.create(output, generator.name, generator.params(), source)
    return generate(records or list_images(source), generator, store, workers=workers, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tool(*arguments: object, **options: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(REPO / "tools" / "generate_masks.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_two_workers_give_the_bytes_of_one_and_a_second_run_does_nothing(photos, tmp_path):
    summary = run(f"folder:{photos}", tmp_path / "one")
    assert (summary.total, summary.made, summary.skipped, summary.failed) == (12, 12, 0, {})
    for record in list_images(f"folder:{photos}"):
        assert read_label_map(tmp_path / "one" / f"{record['key']}.png").shape == (72, 96)
    assert "12 images: 12 made" in summary.lines()[0]
    run(f"folder:{photos}", tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    again = run(f"folder:{photos}", tmp_path / "two", workers=2)
    assert (again.made, again.skipped) == (0, 12)
    assert again.median_regions == run(f"folder:{photos}", tmp_path / "one").median_regions


def test_bad_images_are_listed_and_the_others_made(photos, tmp_path):
    images = write_photos(tmp_path / "images", 3)
    (images / "a" / "zero.jpg").touch()
    (images / "b" / "text.jpg").write_text("hello")
    (images / "b" / "cut.png").write_bytes((images / "a" / "000.png").read_bytes()[:500])
    summary = run(f"folder:{images}", tmp_path / "m", workers=2)
    assert (summary.total, summary.made) == (6, 3) and list(summary.failed) == ["a/zero.jpg", "b/cut.png", "b/text.jpg"]
    assert (tmp_path / "m" / "failed.txt").read_text().splitlines()[0] == "a/zero.jpg\tthe file is empty (0 bytes)"
    assert any(line.startswith("FAILED b/cut.png: ") for line in summary.lines())

    for name in ("a/zero.jpg", "b/text.jpg", "b/cut.png"):
        Image.new("RGB", (20, 20)).save(images / name)
    repaired = run(f"folder:{images}", tmp_path / "m")
    assert (repaired.made, repaired.skipped, repaired.failed) == (3, 3, {}) and not (tmp_path / "m" / "failed.txt").exists()


def test_few_regions_warn_with_parameters_to_try(photos, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (32, 32)).save(images / "a.png")
    summary = run(f"folder:{images}", tmp_path / "fh", build_generator("fh"))
    assert summary.median_regions == 1 and "for images of 32x32 try --scale 100 --min-size 20" in summary.advice
    assert run(f"folder:{images}", tmp_path / "grid", build_generator("grid", size=1)).advice is None
    assert run(f"folder:{photos}", tmp_path / "enough").advice is None


def test_annotations_are_for_the_shown_or_the_stored_pixels_as_their_size_says(tmp_path):
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.jpg", exif=exif)  # shown as 20 wide, 30 high
    for shape, failed in (((30, 20), []), ((20, 30), []), ((21, 30), ["a.jpg"])):
        image = {"id": 1, "file_name": "a.jpg", "height": shape[0], "width": shape[1]}
        annotation = {"image_id": 1, "segmentation": [[0, 0, 20, 0, 20, 10, 0, 10]]}
        (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [annotation]}))
        output = tmp_path / f"masks{shape[0]}"
        summary = run(f"coco:{tmp_path}/a.json,{tmp_path}/images", output, build_generator("annotations"))
        assert list(summary.failed) == failed
        if not failed:
            label_map = read_label_map(output / "a.jpg.png")
            assert label_map.shape == shape and label_map[:, 0].tolist() == [1] * 10 + [0] * (shape[0] - 10)
        else:
            assert "found an image of 30x20" in summary.failed["a.jpg"]


def test_keys_and_annotations_are_checked_before_anything_is_made(photos, tmp_path):
    with pytest.raises(ValueError, match="found no annotations in the data set"):
        run(f"folder:{photos}", tmp_path / "a", build_generator("annotations"))
    file_name = str(next(photos.rglob("*.png")))
    for records, message in (
        ([{"file_name": file_name, "key": "../a.png"}], "expected a path below the root"),
        ([{"file_name": file_name, "key": "a.png"}, {"file_name": "/other.png", "key": "a.png"}], "two images with the key 'a.png'"),
    ):
        with pytest.raises(ValueError, match=message):
            run("x", tmp_path / "m", records=records)
    assert run("x", tmp_path / "m", records=[{"file_name": file_name, "key": "a.png"}] * 2).total == 1


def test_a_full_disk_in_a_worker_process_stops_the_run_and_loses_nothing(photos, tmp_path):
    run(f"folder:{photos}", tmp_path, records=list_images(f"folder:{photos}")[:3])
    before = contents(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        generate(list_images(f"folder:{photos}"), FullDiskRegions(), LabelMapStore(tmp_path), workers=2, progress=False)
    assert {name: data for name, data in contents(tmp_path).items() if name in before} == before
    assert not list(tmp_path.rglob(".tmp-*"))


def _no_space(*args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class FullDiskRegions(GridRegions):
    """Every write of its worker process finds the disk full."""

    def __call__(self, image, rng, record=None):
        os.replace = _no_space
        return super().__call__(image, rng, record)


class KillerRegions(GridRegions):
    """The worker that meets 003.png is killed, as the system does when memory runs out; but only once."""

    def __init__(self, marker: Path) -> None:
        super().__init__(size=3)
        object.__setattr__(self, "marker", marker)

    def __call__(self, image, rng, record=None):
        if record["key"].endswith("003.png") and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, rng, record)


def test_a_killed_worker_is_said_and_the_next_run_continues(photos, tmp_path):
    killer = KillerRegions(tmp_path / "marker")
    with pytest.raises(RuntimeError, match=r"a worker process was killed.*the same command continues.*003\.png"):
        run(f"folder:{photos}", tmp_path / "m", killer, workers=2)
    assert run(f"folder:{photos}", tmp_path / "m", killer, workers=2).failed == {}
    run(f"folder:{photos}", tmp_path / "whole", build_generator("grid", size=3))
    assert contents(tmp_path / "m") == contents(tmp_path / "whole")


class ThreadReportingRegions(GridRegions):
    """One region for each OpenCV thread and each OMP_NUM_THREADS."""

    def __call__(self, image, rng, record=None):
        import cv2

        return grid_label_map(*image.shape[:2], cv2.getNumThreads() * int(os.environ["OMP_NUM_THREADS"]))


def test_workers_use_one_thread_and_the_environment_is_put_back(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert run(f"folder:{photos}", tmp_path, ThreadReportingRegions(size=9), workers=2).median_regions == 1
    assert os.environ["OMP_NUM_THREADS"] == "3" and "MKL_NUM_THREADS" not in os.environ


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory) -> Path:
    """32 images of 50 to 100 ms each: time to interrupt."""
    return write_photos(tmp_path_factory.mktemp("large"), 32, height=240, width=320)


@pytest.fixture(scope="module")
def uninterrupted(large_photos, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Format -> contents of a whole run."""
    generator, found = build_generator("fh", **FH), {}
    for file_format in ("png", "tar"):
        output = tmp_path_factory.mktemp(file_format)
        store = create_store(output, generator, f"folder:{large_photos}", file_format)
        generate(list_images(f"folder:{large_photos}"), generator, store, progress=False)
        found[file_format] = contents(output)
    return found


def made(output: Path) -> set[str]:
    """Keys of the label maps of a run that may have just begun."""
    return open_store(output).keys() if (output / "index.json").exists() else set()


@pytest.mark.parametrize(("how", "file_format"), [(signal.SIGKILL, "png"), (signal.SIGINT, "png"), (signal.SIGKILL, "tar")])
def test_an_interrupted_run_continues_to_the_same_bytes(large_photos, uninterrupted, tmp_path, how, file_format):
    arguments = (f"folder:{large_photos}", tmp_path / "m", "--scale", 100, "--min-size", 50, "--workers", 2, "--format", file_format)
    # A shell that started the tests in the background has them ignore Ctrl-C, and children inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = tool(*arguments, start_new_session=True, preexec_fn=heard)
    deadline = time.monotonic() + PATIENCE
    while len(made(tmp_path / "m")) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    # A terminal sends Ctrl-C to the workers too; SIGKILL meets the parent only, and the workers must notice.
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    output, errors = process.communicate(timeout=PATIENCE)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command continues" in errors and "Traceback" not in errors
    assert _wait_until_gone(process.pid)
    store, done = open_store(tmp_path / "m"), made(tmp_path / "m")
    assert 6 <= len(done) < 32 and all(store.read(key).shape == (240, 320) for key in done)

    (tmp_path / "m" / f".tmp-{socket.gethostname().replace('-', '_')}-{process.pid}-0").touch()
    process = tool(*arguments)
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert f"{len(done)} were there" in output
    assert contents(tmp_path / "m") == uninterrupted[file_format]


def _wait_until_gone(session: int) -> bool:
    """Whether every process of a session ends in time."""
    for _ in range(10 * PATIENCE):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False
