"""A folder of tars: the final files depend on the images only, and nothing is lost while they are made."""

import os
import pickle
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from detcon_d2.io.references import parse_label_map
from detcon_d2.masks import LabelMapStore, open_store, read_label_map
from detcon_d2.masks.store.tar_file import index_path, open_tar
from detcon_d2.masks.store.tar_folder import TarStore
from tests.masks.test_generate import contents

RNG = np.random.default_rng(0)
MAPS = {f"{folder}/{n}.jpg": RNG.integers(0, 300 if n % 2 else 9, (2, 20 + n, 30)).astype(np.uint16) for folder in "ab" for n in range(5)}
RECORDS = [{"key": key, "file_name": f"/images/{key}"} for key in [*MAPS, "a/bad.jpg"]]
FAILED = {"a/bad.jpg": "the file is empty (0 bytes)"}


def create(root: Path, size: int = 4, **options) -> TarStore:
    return TarStore.create(root, "grid", {"size": 2}, "folder:/images", **{"layers": 2, "images_per_file": size} | options)


def filled(root: Path) -> TarStore:
    store = create(root)
    for key, stack in MAPS.items():
        store.write(key, stack)
    store.finish(RECORDS, FAILED)
    return store


def assert_holds(store: TarStore, maps: dict[str, np.ndarray]) -> None:
    assert store.keys() == store.references().keys() == maps.keys()
    for key, reference in store.references().items():
        for layer in (0, 1):
            np.testing.assert_array_equal(read_label_map(reference, layer), maps[key][layer])
            np.testing.assert_array_equal(store.read(key, layer), maps[key][layer])


def test_label_maps_come_back_by_key_and_by_reference(tmp_path):
    store = create(tmp_path)
    for key, stack in MAPS.items():
        store.write(key, stack)
        np.testing.assert_array_equal(store.read(key, 1), stack[1])
    assert store.keys() == MAPS.keys() and store.references() == {}
    store.finish(RECORDS, FAILED)
    names = [f"maps-0000{number}.tar{suffix}" for number in range(3) for suffix in ("", ".index.json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.json", *names]
    for opened in (store, open_store(tmp_path), pickle.loads(pickle.dumps(store))):
        assert type(opened) is TarStore and opened.layers == 2
        assert_holds(opened, MAPS)
    assert all(parse_label_map(str(reference)) == reference for reference in store.references().values())


def test_order_doubles_a_trial_and_interruptions_leave_no_trace(tmp_path):
    expected = contents(filled(tmp_path / "one").root)
    store = create(tmp_path / "two")
    for key in [*reversed(MAPS), "a/1.jpg"]:
        store.write(key, MAPS[key])
        store = open_store(tmp_path / "two")
    for _ in range(2):
        store.finish(RECORDS, FAILED)
        assert contents(tmp_path / "two") == expected
    store = create(tmp_path / "three")
    for keys in (["b/4.jpg", "a/2.jpg"], ["a/0.jpg", "b/1.jpg"], list(MAPS)):
        for key in set(keys) - store.keys():
            store.write(key, MAPS[key])
        store.finish([{"key": key, "file_name": key} for key in keys], {})
        assert_holds(store, {key: MAPS[key] for key in MAPS.keys() & store.keys()})
    store.finish(RECORDS, FAILED)
    assert contents(tmp_path / "three") == expected


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux's list of open files")
def test_a_repaired_image_replaces_its_tar_only_which_is_closed_so_that_its_disk_space_is_free(tmp_path):
    store = filled(tmp_path)
    before = contents(tmp_path)
    assert_holds(store, MAPS)
    store.write("a/bad.jpg", MAPS["a/0.jpg"])
    store.finish(RECORDS, {})
    assert_holds(open_store(tmp_path), MAPS | {"a/bad.jpg": MAPS["a/0.jpg"]})
    changed = {name for name, data in contents(tmp_path).items() if data != before[name]}
    assert changed == {"maps-00001.tar", "maps-00001.tar.index.json"}
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    assert not [link for link in links if link.startswith(str(tmp_path)) and link.endswith("(deleted)")]


class Killed(BaseException):
    """The process ends here."""


def test_a_run_that_ends_at_any_step_of_packing_loses_nothing(tmp_path, monkeypatch):
    expected = contents(filled(tmp_path / "whole").root)
    start = create(tmp_path / "start")
    trial = ["b/4.jpg", "a/2.jpg", "b/1.jpg", "a/4.jpg", "b/0.jpg"]
    for key in trial:
        start.write(key, MAPS[key])
    start.finish([{"key": key, "file_name": key} for key in trial], {})
    for key in MAPS.keys() - set(trial):
        start.write(key, MAPS[key])
    real = {name: getattr(os, name) for name in ("replace", "unlink")}
    step = 0
    while True:
        root = tmp_path / str(step)
        shutil.copytree(tmp_path / "start", root)
        calls = iter(range(step + 1))

        def dying(*args, _calls=calls, _name="replace", **options):
            if next(_calls, None) is None:
                raise Killed
            with suppress(FileNotFoundError):  # Path.unlink(missing_ok=True)
                real[_name](*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", dying)
            patched.setattr(Path, "unlink", lambda path, missing_ok=False: dying(path, _name="unlink"))
            with suppress(Killed):
                open_store(root).finish(RECORDS, FAILED)
        finished = next(calls, None) is not None
        store = open_store(root)
        assert store.keys() == MAPS.keys(), step
        store.finish(RECORDS, FAILED)
        # What the dying process left under temporary names is removed by the next run on this machine once it is dead.
        assert {name: data for name, data in contents(root).items() if not name.startswith(".tmp-")} == expected, step
        if finished:
            break
        step += 1
    assert step >= 6


def test_parts_that_end_in_the_middle_are_read_up_to_there(tmp_path):
    create(tmp_path / "m")
    for length in range(0, 400, 37):
        root = tmp_path / str(length)
        store = create(root)
        for key in ("a.jpg", "b.jpg"):
            store.write(key, np.zeros((2, 3, 3), np.uint16))
        (part,) = root.glob(".part-*")
        size = part.stat().st_size
        part.write_bytes(part.read_bytes()[:length])
        kept = {"a.jpg", "b.jpg"} if length >= size else {"a.jpg"} if length >= size // 2 else set()
        assert open_store(root).keys() == kept
        store.write("c.jpg", np.zeros((2, 3, 3), np.uint16))


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_damage_is_named_removed_and_made_good(tmp_path):
    store = filled(tmp_path)
    before = contents(tmp_path)
    reference = store.references()["b/0.jpg"]
    path = tmp_path / "maps-00001.tar"
    damage(path, reference.offset + 50)
    with pytest.raises(ValueError, match=rf"of {path}: .*damaged.*merge_masks.py {tmp_path} --repair; then run tools/generate_masks.py"):
        read_label_map(reference)
    with pytest.raises(ValueError, match=r"damaged"):
        open_store(tmp_path).read("b/0.jpg")
    store = open_store(tmp_path)
    store.discard({"b/0.jpg"})
    assert store.keys() == MAPS.keys() - {"b/0.jpg"}
    store.write("b/0.jpg", MAPS["b/0.jpg"])
    store.finish(RECORDS, FAILED)
    assert contents(tmp_path) == before


def test_damage_found_while_packing_does_not_spread(tmp_path, caplog):
    filled(tmp_path)
    path = tmp_path / "maps-00000.tar"
    damage(path, open_tar(path).places["a/1.jpg"].offset + 50)
    store = open_store(tmp_path)
    store.write("a/0.png", MAPS["a/0.jpg"])  # moves everything after it
    store.finish(RECORDS, FAILED)
    assert store.keys() == MAPS.keys() - {"a/1.jpg"} | {"a/0.png"}
    assert "label map of a/1.jpg" in caplog.text and "is damaged" in caplog.text


@pytest.mark.parametrize("index", ["absent", b"{", b"[]", b'{"bytes": 10240}', "of another tar"])
def test_without_a_usable_index_the_tar_is_listed_and_the_next_run_writes_one(tmp_path, index):
    filled(tmp_path / "m")
    before = contents(tmp_path / "m")
    path = index_path(tmp_path / "m" / "maps-00000.tar")
    if index == "absent":
        path.unlink()
    elif index == "of another tar":
        shutil.copy(index_path(tmp_path / "m" / "maps-00001.tar"), path)
    else:
        path.write_bytes(index)
    store = open_store(tmp_path / "m")
    assert_holds(store, MAPS)
    store.finish(RECORDS, FAILED)
    assert contents(tmp_path / "m") == before


@pytest.mark.parametrize("keep", [-5000, 700, 0])
@pytest.mark.parametrize("index", [True, False])
def test_a_truncated_tar_is_refused(tmp_path, keep, index):
    filled(tmp_path)
    path = tmp_path / "maps-00000.tar"
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:keep])
    if not index:
        index_path(path).unlink()
    with pytest.raises(ValueError, match=f"{path}: (cannot read it as a tar|found no description)"):
        open_store(tmp_path).keys()


def test_parameters_formats_and_numbers_of_layers_are_not_mixed(tmp_path):
    other = TarStore.create(tmp_path / "other", "grid", {"size": 3}, "folder:/images", layers=2)
    tmp_path = tmp_path / "m"
    filled(tmp_path)
    shutil.copy(tmp_path / "maps-00000.tar", other.root)
    with pytest.raises(ValueError, match=r"found label maps of grid; expected the parameters of"):
        open_store(other.root).keys()
    with pytest.raises(ValueError, match=r"found 'detcon_d2 label maps, PNG in WebDataset tars'; expected .*PNG'.*--format tar"):
        LabelMapStore.create(tmp_path, "grid", {"size": 2}, "folder:/images")
    with pytest.raises(ValueError, match="open_store"):
        LabelMapStore(tmp_path)
    with pytest.raises(ValueError, match="images per file: found 0"):
        create(tmp_path / "zero", size=0)
    reference = open_store(tmp_path).references()["a/0.jpg"]
    with pytest.raises(ValueError, match=r"found 2 layer\(s\); expected more than 2"):
        read_label_map(reference, 2)


def test_a_missing_label_map_or_tar_is_said(tmp_path):
    store = filled(tmp_path)
    for key in ("none.jpg", "a/bad.jpg"):
        with pytest.raises(ValueError, match=f"{key} in .*found none"):
            store.read(key)
    with pytest.raises(ValueError, match=r"found no .*maps-99999.tar"):
        read_label_map(str(store.references()["a/0.jpg"]).replace("maps-00000", "maps-99999"))


def test_a_replaced_tar_is_opened_again(tmp_path):
    store = filled(tmp_path)
    assert_holds(store, MAPS)
    shutil.copytree(tmp_path, tmp_path / "copy")
    more = open_store(tmp_path / "copy")
    more.write("a/0.png", MAPS["b/3.jpg"])
    more.finish([{"key": "a/0.png"}, *RECORDS], FAILED)
    for path in (tmp_path / "copy").glob("*.tar*"):
        os.replace(path, tmp_path / path.name)
    assert_holds(open_store(tmp_path), MAPS | {"a/0.png": MAPS["b/3.jpg"]})


def test_threads_and_forked_processes_read_at_the_same_time(tmp_path):
    store = filled(tmp_path)
    references, wrong = store.references(), []

    def read_all() -> None:
        for _ in range(20):
            for key, reference in references.items():
                wrong.extend([key] if (read_label_map(reference, 1) != MAPS[key][1]).any() else [])

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    child = os.fork()
    if child == 0:
        read_all()
        os._exit(len(wrong))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and os.waitpid(child, 0)[1] == 0


def test_a_process_that_forks_writes_parts_of_its_own(tmp_path):
    store = create(tmp_path)
    store.write("a/0.jpg", MAPS["a/0.jpg"])
    child = os.fork()
    store.write("a/1.jpg" if child else "a/2.jpg", MAPS["a/1.jpg"])
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert open_store(tmp_path).keys() == {"a/0.jpg", "a/1.jpg", "a/2.jpg"} and len(list(tmp_path.glob(".part-*"))) == 2
