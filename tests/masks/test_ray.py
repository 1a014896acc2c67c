"""Ray Data makes the same files as processes."""

import shutil
import sys
from functools import partial

import pytest

from detcon_d2.masks import build_generator, list_images, open_store
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.formats import create_store
from detcon_d2.masks.worker import map_with_ray, process_image
from tests.conftest import write_photos
from tests.masks.test_generate import contents


def run(images, output, file_format, engine):
    generator = build_generator("fh", scale=100.0, min_size=50)
    store = create_store(output, generator, f"folder:{images}", file_format)
    return generate(list_images(f"folder:{images}"), generator, store, workers=2, progress=False, engine=engine)


@pytest.fixture(scope="module")
def cluster():
    """Ray, for the tests of this file."""
    ray = pytest.importorskip("ray", reason='needs Ray (pip install "ray[data]"), which is not installed')
    yield
    ray.shutdown()


@pytest.mark.parametrize("file_format", ["png", "tar"])
def test_ray_gives_the_bytes_of_processes_and_names_what_failed(tmp_path, cluster, file_format):
    images = write_photos(tmp_path / "i", 40)
    (images / "b" / "empty.jpg").touch()
    expected = run(images, tmp_path / "processes", file_format, "processes")
    summary = run(images, tmp_path / "ray", file_format, "ray")
    assert summary.failed == expected.failed != {} and summary.made == 40
    assert contents(tmp_path / "ray") == contents(tmp_path / "processes")
    again = run(images, tmp_path / "ray", file_format, "ray")
    assert (again.made, again.skipped) == (0, 40) and len(open_store(tmp_path / "ray").keys()) == 40


def test_a_folder_that_vanishes_is_said_as_without_ray(photos, tmp_path, cluster):
    store = create_store(tmp_path / "m", build_generator("grid"), "x", "tar")
    shutil.rmtree(tmp_path / "m")
    tasks = list_images(f"folder:{photos}")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/m: No such file"):
        list(map_with_ray(partial(process_image, generator=build_generator("grid"), store=store), tasks, 1))


def test_without_ray_the_remedy_is_named(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "ray\[data\]"'):
        run(photos, tmp_path, "png", "ray")


def test_another_engine_is_refused(photos, tmp_path):
    with pytest.raises(ValueError, match="found 'dask'; expected 'processes' or 'ray'"):
        run(photos, tmp_path, "png", "dask")
