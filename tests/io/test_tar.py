"""WebDataset tars: images are read from them without unpacking, and label maps are written to tars of the same names."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcon_d2.io.images import ImageReadError, image_size
from detcon_d2.io.specs import canonical_spec
from detcon_d2.io.tar import expand_pattern, split_member
from detcon_d2.masks import build_generator, create_store, list_images, open_store, read_image, read_label_map
from detcon_d2.masks.generate import generate
from detcon_d2.masks.store.merge import take_over
from detcon_d2.masks.store.tar_file import open_tar
from tests.conftest import write_photos
from tests.masks.test_generate import contents


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5  # PAX headers, as WebDataset's writer makes them
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def image_tars(tmp_path_factory) -> Path:
    """Twelve pictures in three tars, with classes and other members."""
    root = tmp_path_factory.mktemp("tars")
    files = sorted(write_photos(root / "files", 12).rglob("*.png"))
    for number in range(3):
        members = {}
        for path in files[4 * number : 4 * number + 4]:
            key = path.relative_to(root / "files").with_suffix("").as_posix()
            members |= {f"./{key}.json": b"{}", f"./{key}.png": path.read_bytes(), f"./{key}.cls": b"3\n", f"./{key}.depth.png": b"x"}
        write_tar(root / f"train-{number:04d}.tar", members)
    return root


def spec(root: Path) -> str:
    return f"tar:{root}/train-{{0000..0002}}.tar"


def make(root: Path, output: Path, **options):
    generator = build_generator("grid", size=3)
    store = create_store(output, generator, canonical_spec(spec(root)), "tar")
    return store, generate(list_images(spec(root)), generator, store, progress=False, **options)


def test_images_in_tars_are_listed_with_their_classes_and_read(image_tars):
    records = list_images(spec(image_tars))
    assert [record["key"] for record in records] == sorted(f"{'ab'[n % 2]}/{n:03d}" for n in range(12))
    assert {record["label"] for record in records} == {3}
    for record in records:
        path = image_tars / "files" / f"{record['key']}.png"
        np.testing.assert_array_equal(read_image(record["file_name"]), read_image(path))
        assert image_size(record["file_name"]) == image_size(path) == (72, 96)
    assert list_images(f"tar:{image_tars}/*.tar") == records


def test_label_maps_of_tars_come_in_tars_of_the_same_names(image_tars, tmp_path):
    store, summary = make(image_tars, tmp_path / "m", workers=2)
    assert (summary.made, summary.failed) == (12, {})
    names = [f"train-{n:04d}.tar{suffix}" for n in range(3) for suffix in ("", ".index.json")]
    assert sorted(contents(tmp_path / "m")) == ["index.json", *names]
    for n in range(3):
        with tarfile.open(tmp_path / "m" / f"train-{n:04d}.tar") as tar, tarfile.open(image_tars / f"train-{n:04d}.tar") as images:
            keys = {split_member(member.name)[0] for member in images}
            assert {member.name for member in tar} == {f"{key}.seg.png" for key in keys}
            assert json.loads(tar.pax_headers["comment"])["hash"] == store.index["hash"]
            with Image.open(tar.extractfile(next(iter(tar)))) as image:  # other programs read them
                assert len(np.unique(np.array(image))) == 9
    assert all(len(np.unique(read_label_map(reference))) == 9 for reference in open_store(tmp_path / "m").references().values())
    before = contents(tmp_path / "m")
    (tmp_path / "m" / "train-0001.tar").unlink()
    for made in (4, 0):
        _, summary = make(image_tars, tmp_path / "m")
        assert (summary.made, summary.skipped) == (made, 12 - made) and contents(tmp_path / "m") == before


def test_label_maps_beside_images_are_taken_over(image_tars, tmp_path):
    maps = {record["key"]: np.full((4, 5), number * 20, np.uint8) for number, record in enumerate(list_images(spec(image_tars)))}
    members = {}
    for key, label_map in maps.items():
        buffer = io.BytesIO()
        Image.fromarray(label_map).save(buffer, "png")
        members |= {f"{key}.jpg": b"", f"{key}.seg.png": buffer.getvalue()}
    write_tar(tmp_path / "pairs.tar", members)
    store = take_over(tmp_path / "m", [f"tar:{tmp_path}/pairs.tar"], "png")
    assert store.keys() == maps.keys() and store.index["generator"] == "imported"
    for key, label_map in maps.items():
        np.testing.assert_array_equal(store.read(key), label_map)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"", "a.png": b""}, "two images with the key 'a'.*0.tar.*0.tar"),
        ({"a.jpg": b""}, r"two images with the key 'a'.*0.tar.*1.tar.*each key in one tar only"),
        ({"a.txt": b""}, "found no image"),
        ({"{n}a.jpg": b"", "{n}b.jpg": b"", "{n}a.cls": b"1"}, r"classes \(.cls\) of 2 of 4 images"),
        ({"a.jpg": b"", "a.cls": b"dog"}, "found b'dog' in a.cls"),
    ],
)
def test_unusable_tars_are_refused(tmp_path, members, message):
    for n in (0, 1):
        write_tar(tmp_path / f"{n}.tar", {name.format(n=n): data for name, data in members.items()})
    with pytest.raises(ValueError, match=message):
        list_images(f"tar:{tmp_path}/{{0..1}}.tar")


def test_missing_and_damaged_tars_are_refused(image_tars, tmp_path):
    with pytest.raises(ValueError, match=r"found 3 file\(s\), but no .*train-0003.tar"):
        expand_pattern(f"{image_tars}/train-{{0000..0003}}.tar")
    with pytest.raises(ValueError, match=r"found 0 file\(s\)"):
        list_images(f"tar:{tmp_path}/*.tar")
    (tmp_path / "cut.tar").write_bytes((image_tars / "train-0000.tar").read_bytes()[:5000])
    (tmp_path / "text.tar").write_bytes(b"hello" * 1000)
    for name in ("cut", "text"):
        with pytest.raises(ValueError, match=f"{name}.tar: cannot read it as a tar"):
            list_images(f"tar:{tmp_path}/{name}.tar")


def test_a_damaged_image_in_a_tar_is_a_failed_image(image_tars, tmp_path):
    write_tar(tmp_path / "train.tar", {"a.png": b"text", "b.png": (image_tars / "files/a/000.png").read_bytes(), "c.png": b""})
    generator = build_generator("grid")
    store = create_store(tmp_path / "m", generator, "x", "tar")
    summary = generate(list_images(f"tar:{tmp_path}/train.tar"), generator, store, progress=False)
    assert summary.made == 1 and list(summary.failed) == ["a", "c"] and "0 bytes" in summary.failed["c"]
    with pytest.raises(ImageReadError, match=r"train.tar#.*:a.png"):
        read_image(list_images(f"tar:{tmp_path}/train.tar")[0]["file_name"])


def test_nothing_is_written_outside_for_hostile_names(image_tars, tmp_path):
    write_tar(tmp_path / "train.tar", {"../../evil.png": (image_tars / "files/a/000.png").read_bytes()})
    generator = build_generator("grid")
    store = create_store(tmp_path / "m" / "n", generator, "x")
    with pytest.raises(ValueError, match="expected a path below the root"):
        generate(list_images(f"tar:{tmp_path}/train.tar"), generator, store, progress=False)
    assert sorted(contents(tmp_path)) == ["m/n/index.json", "train.tar"]


def test_keys_survive_in_tars_with_extensions_and_any_characters(tmp_path):
    store = create_store(tmp_path / "m", build_generator("grid"), "x", "tar")
    keys = ("a/x.jpg", "a/x.png", "a/y.z.jpg", "b", "é/ü.jpg", "日本.png", "\udcff.jpg", "\U0001f600.jpg", "\ue000.jpg")
    maps = {key: np.full((3, 3), number, np.uint16) for number, key in enumerate(keys)}
    for key, label_map in maps.items():
        store.write(key, label_map)
    store.finish([{"key": key} for key in maps], {})
    (path,) = (tmp_path / "m").glob("*.tar")
    assert list(open_tar(path).places) == sorted(maps)
    assert [int(open_store(tmp_path / "m").read(key)[0, 0]) for key in keys] == list(range(len(keys)))
