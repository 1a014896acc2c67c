"""Killed processes, full disks, folders that cannot be written: clear errors, and nothing is lost."""

import resource
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from detcon_d2.masks import list_images, open_store
from detcon_d2.masks.generate import generate
from detcon_d2.masks.generators.registry import GridRegions
from detcon_d2.masks.store.formats import STORES, create_store
from tests.conftest import PATIENCE, SEED, write_photos
from tests.masks import killed_runs
from tests.masks.test_commands import ENVIRONMENT
from tests.masks.test_generate import contents

formats = pytest.mark.parametrize("file_format", STORES)


@pytest.fixture(scope="module")
def many_images(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("many"), 96, height=24, width=30)


@pytest.mark.seeded
@formats
def test_ten_kills_at_random_moments_leave_no_trace(many_images, tmp_path, file_format):
    arguments = [killed_runs.__file__, many_images, tmp_path / "m", file_format, SEED, 10]
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, (SEED, done.stderr)
    counts = list(map(int, done.stdout.split()))
    assert len(counts) == 10 and counts == sorted(counts), f"seed {SEED}: label maps after each kill: {counts}"
    assert 0 < counts[-1], f"seed {SEED}: no kill met work in progress: {counts}"
    assert contents(tmp_path / "m") == contents(tmp_path / "m_whole"), f"seed {SEED}"
    assert len(open_store(tmp_path / "m").keys()) == 96


@contextmanager
def largest_file(size: int):
    """Writing fails beyond this size, as on a full disk; by the system, not by a substitute."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class NoisyRegions(GridRegions):
    """About 4 kB an image, whatever the format."""

    def __call__(self, image, rng, record=None):
        return rng.integers(0, 256, image.shape[:2]).astype(np.uint16)


@formats
@pytest.mark.parametrize("when", ["making", "packing"])
def test_a_full_disk_stops_the_run_with_a_clear_error_and_loses_nothing(tmp_path, file_format, when):
    images = write_photos(tmp_path / "i", 12, height=60, width=70)
    records, generator = list_images(f"folder:{images}"), NoisyRegions()

    def run(name: str, **options):
        store = create_store(tmp_path / name, generator, "x", file_format)
        return generate(records, generator, store, progress=False, **options)

    run("whole")
    if when == "packing":
        for part in range(3):
            run("m", part=(part, 3))
    if (file_format, when) != ("png", "packing"):
        limit = 3000 if file_format == "png" else 20000
        with largest_file(limit), pytest.raises(OSError, match=f"cannot write {tmp_path}/m.*; what was written before is kept"):
            run("m")
    kept = len(open_store(tmp_path / "m").keys())
    assert kept == 12 if when == "packing" else kept == 0 if file_format == "png" else 3 <= kept <= 4
    assert not list((tmp_path / "m").rglob(".tmp-*"))
    summary = run("m")
    assert (summary.skipped, summary.made) == (kept, 12 - kept)
    assert contents(tmp_path / "m") == contents(tmp_path / "whole")


@formats
def test_a_folder_that_cannot_be_made_or_written_is_said(photos, tmp_path, file_format, run_tool):
    (tmp_path / "file").touch()
    for output in ("/proc/masks", tmp_path / "file", tmp_path / "file" / "m"):
        done = run_tool("generate_masks.py", f"folder:{photos}", output, "--generator", "grid", "--workers", 1, "--format", file_format)
        assert done.returncode == 2 and f"cannot write {output}" in done.stderr and "Traceback" not in done.stderr


class WrongSizeRegions(GridRegions):
    """Forgets the last row of one image."""

    def __call__(self, image, rng, record=None):
        label_map = super().__call__(image, rng, record)
        return label_map[:-1] if record["key"].endswith("003.png") else label_map


@formats
def test_a_label_map_of_another_size_is_a_failed_image(photos, tmp_path, file_format):
    store = create_store(tmp_path, WrongSizeRegions(), f"folder:{photos}", file_format)
    summary = generate(list_images(f"folder:{photos}"), WrongSizeRegions(), store, progress=False)
    assert summary.made == 11 and list(summary.failed) == ["b/003.png"]
    assert "is 96 x 71 (width x height), but" in summary.failed["b/003.png"]
