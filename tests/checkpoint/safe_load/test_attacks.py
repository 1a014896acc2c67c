"""Files that would run code or exhaust memory: refused with the reason, and nothing of them ran."""

import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from detcon_d2.checkpoint import UnsafeCheckpointError, load_checkpoint_file
from detcon_d2.checkpoint.safe_load import pickles
from tests.checkpoint.attacks import CONTAINERS, INERT_PAYLOADS, PAYLOADS, Calls, claiming, npy, removed, text

TERA = 10**12


def refusal(path, reason=None) -> str:
    with pytest.raises(UnsafeCheckpointError, match=reason) as error:
        load_checkpoint_file(path)
    assert str(path) in str(error.value) and "weights_only" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_attacks_are_real(tmp_path, name):
    marker = tmp_path / "owned"
    pickle.loads(PAYLOADS[name][0](str(marker)))
    assert removed(marker)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_file_runs_code(tmp_path, name, container):
    make, reason = PAYLOADS[name]
    marker, path = tmp_path / "owned", tmp_path / "weights"
    CONTAINERS[container](path, make(str(marker)))
    assert "save its state dict" in refusal(path, reason)
    assert not marker.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", INERT_PAYLOADS)
def test_tricks_of_pickles_are_refused(tmp_path, name, container):
    payload, reason = INERT_PAYLOADS[name]
    CONTAINERS[container](tmp_path / "weights", payload)
    refusal(tmp_path / "weights", reason)


def test_a_small_pickle_that_writes_out_to_very_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_ITEMS", 10_000)
    value = [1] * 10
    for _ in range(20):
        value = [value] * 10
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(value))
    assert "more than 10000 values" in refusal(tmp_path / "w.pkl")


COPIES = {
    "bytearray": (bytes(2**20), b"cbuiltins\nbytearray\nh\x01\x85R"),
    "_codecs.encode": ("\0" * 2**20, b"c_codecs\nencode\nh\x01" + text("latin1") + b"\x86R"),
    "array": (
        bytes(2**20),
        b"cnumpy.core.numeric\n_frombuffer\n(h\x01cnumpy\ndtype\n" + text("u1") + b"\x85RJ\x00\x00\x10\x00\x85" + text("C") + b"tR",
    ),
    "torch.Size": ([None] * 2**18, b"ctorch\nSize\nh\x01\x85R"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", COPIES)
def test_a_small_file_that_copies_its_bytes_very_often_is_refused(tmp_path, name, container):
    content, call = COPIES[name]
    stored = pickle._dumps(content, protocol=3)[2:-1]
    stored = stored.replace(b"]q\x00", b"]", 1) if isinstance(content, list) else stored
    CONTAINERS[container](tmp_path / "w", b"\x80\x03" + stored + b"q\x010](" + call * 30_000 + b"e.")
    tracemalloc.start()
    try:
        message = refusal(tmp_path / "w")
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()
    reason = "asks for torch.Size" if container in ("pickle", "npy", "npz") else "torch.Size with 262144 lengths"
    assert (reason if name == "torch.Size" else "makes far more arrays or bytes than it holds") in message


def test_classes_that_the_process_allowed_elsewhere_are_refused_and_stay_allowed(tmp_path):
    torch.save({"model": Calls(print, "ran")}, tmp_path / "w.pth")
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([print])
    try:
        assert "asks for" in refusal(tmp_path / "w.pth")
        assert set(torch.serialization.get_safe_globals()) == before | {print}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


class ArrayState:
    """Pickles as an array of ``shape`` and ``dtype`` whose content is eight bytes."""

    def __init__(self, shape, dtype):
        self.state = (1, shape, dtype, False, bytes(8))

    def __reduce__(self):
        make, arguments, _ = np.zeros(1).__reduce__()
        return make, arguments, self.state


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((TERA,), np.dtype("f8"), "8000000000000 bytes, where there are 8"),
        ((TERA, TERA, TERA), np.dtype("f8"), "where there are 8"),
        ((-1,), np.dtype("f8"), "which is none"),
        (("a",), np.dtype("f8"), "which is none"),
        ((TERA,), np.dtype("S0"), "has an array of items without bytes"),
        ((1,), np.dtype("O"), "array of Python objects"),
        ((1,), np.dtype("M8[s]"), "expected plain numbers"),
        ((1,), np.dtype([("a", "f4"), ("b", "f4")]), "expected plain numbers"),
    ],
    ids=str,
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_an_array_is_compared_with_its_bytes_before_memory_is_taken(tmp_path, container, shape, dtype, reason):
    CONTAINERS[container](tmp_path / "w", pickle.dumps({"a": ArrayState(shape, dtype)}, protocol=2))
    refusal(tmp_path / "w", reason)


@pytest.mark.parametrize("array", [np.array([{"a": 1}, None]), np.array([[1, None]], dtype=object)], ids=["1d", "2d"])
def test_arrays_of_objects_inside_are_refused(tmp_path, array):
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": array}))
    assert "array of Python objects" in refusal(tmp_path / "w.pkl")


@pytest.mark.parametrize(
    "length", [b"B" + struct.pack("<I", 2**31), b"\x8e" + struct.pack("<Q", 2**40), b"\x96" + struct.pack("<Q", 2**62)]
)
def test_lengths_beyond_the_file_take_no_memory(tmp_path, length):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x05" + length + b"abc.")
    assert "cut short or damaged" in refusal(tmp_path / "w.pkl")


def test_a_high_memo_index_takes_no_memory(tmp_path):
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".")
    assert load_checkpoint_file(tmp_path / "w.pkl") == {}


def test_a_numpy_header_beyond_the_file_is_refused(tmp_path):
    (tmp_path / "w.npy").write_bytes(npy(bytes(8), descr="<f8", shape=(TERA,)))
    assert "8000000000000 bytes, where there are 8" in refusal(tmp_path / "w.npy")
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", npy(bytes(8), descr="<f8", shape=(TERA,)))
    assert "8000000000000 bytes, where there are 8" in refusal(tmp_path / "w.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "compressed"])
@pytest.mark.parametrize("container", ["npz", "zip torch"])
def test_a_zip_entry_beyond_the_file_is_refused(tmp_path, container, compression):
    CONTAINERS[container](tmp_path / "w", pickle.dumps({}, protocol=2))
    claiming(tmp_path / "w", TERA, compression)
    refusal(tmp_path / "w", r"claims to hold 1000000\d{6} bytes")


def test_a_compressed_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "abcd":
            with archive.open(f"{name}.npy", "w") as member:
                for _ in range(20):
                    member.write(bytes(2**22))
    assert "claims to hold" in refusal(tmp_path / "w.npz")


def test_a_safetensors_header_beyond_the_file_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 2**40) + b'{"a":{}}')
    assert "cut short or damaged" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(("old", "new", "reason"), [
    (b"K\x04tq", b"J\x00\x00\x00\x10tq", "claims 1073741824 bytes, where there are 16"),
    (b"K\x04\x85q", b"J\x00\x00\x00\x10\x85q", r"_rebuild_tensor_v2 with the size \(268435456,\)"),
], ids=["storage", "tensor"])  # fmt: skip
def test_a_torch_tensor_beyond_its_storage_is_refused_before_torch_reads_it(tmp_path, monkeypatch, old, new, reason):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content.replace(old, new) if name.endswith("data.pkl") else content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read the file"))
    refusal(tmp_path / "w.pth", reason)


@pytest.mark.parametrize(("old", "new"), [(b"K\x04Nt", b"\x8a\x06\x00\x00\x00\x00\x00\x10Nt"), (b"K\x04\x85q", b"J\x00\x00\x00\x10\x85q")])
def test_a_legacy_torch_tensor_beyond_the_file_is_refused(tmp_path, monkeypatch, old, new):
    torch.save({"a": torch.arange(4.0)}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "w.pth").read_bytes()
    assert old in content
    (tmp_path / "w.pth").write_bytes(content.replace(old, new))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read the file"))
    refusal(tmp_path / "w.pth", "claims|with the size")


@pytest.mark.parametrize("function", [torch.Tensor, torch.FloatTensor, torch.FloatStorage])
@pytest.mark.parametrize("container", ["legacy torch", "zip torch"])
def test_a_call_for_much_memory_is_refused(tmp_path, container, function):
    CONTAINERS[container](tmp_path / "w", pickle.dumps(Calls(function, TERA), protocol=2))
    assert f"with the size ({TERA},)" in refusal(tmp_path / "w")
    CONTAINERS[container](tmp_path / "w", pickle.dumps(Calls(function, torch.Size([TERA, 2])), protocol=2))
    assert f"with the size ({TERA}, 2)" in refusal(tmp_path / "w")


def saved(path, value: float) -> dict[str, bytes]:
    """Write a torch file of one tensor; returns its entries."""
    torch.save({"w": torch.full((3, 3), value)}, path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path, entries) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)


def test_a_file_with_two_lists_of_contents_is_refused(tmp_path):
    """zipfile takes the list at the end, torch the one at the offset that the end names."""
    (tmp_path / "a").mkdir()
    for folder in (tmp_path / "a", tmp_path):
        saved(folder / "w.pth", float(folder == tmp_path))
    both = (tmp_path / "a" / "w.pth").read_bytes() + (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(both)
    assert "two lists of contents" in refusal(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", ["archive/DATA.PKL", "Archive/data.pkl", "archive/data.pkl"])
@pytest.mark.parametrize("first", [True, False])
def test_two_pickles_whose_names_differ_in_case_at_most_are_refused(tmp_path, case, first):
    entries = [(name.replace("w/", "archive/"), content) for name, content in saved(tmp_path / "w.pth", 1.0).items()]
    other = [(case, saved(tmp_path / "w.pth", 2.0)["w/data.pkl"])]
    write_zip(tmp_path / "w.pth", other + entries if first else entries + other)
    refusal(tmp_path / "w.pth", "without a checkpoint|two entries of one name")


@pytest.mark.parametrize("first", [True, False])
def test_two_tensors_whose_names_differ_in_case_are_refused(tmp_path, first):
    entries, other = list(saved(tmp_path / "w.pth", 1.0).items()), [("w/Data/0", bytes(36))]
    write_zip(tmp_path / "w.pth", other + entries if first else entries + other)
    refusal(tmp_path / "w.pth", "two entries of one name")
    write_zip(tmp_path / "w.pth", [(name.replace("/data/0", "/Data/0"), content) for name, content in entries])
    refusal(tmp_path / "w.pth", "claims 36 bytes, where there are 0")


@pytest.mark.parametrize("name", [b"w/data/0", b"w/data.pkl"])
def test_an_entry_that_has_another_name_than_the_list_of_contents_is_refused(tmp_path, name):
    saved(tmp_path / "w.pth", 1.0)
    content = (tmp_path / "w.pth").read_bytes()
    (tmp_path / "w.pth").write_bytes(content.replace(name, name.upper(), 1))
    refusal(tmp_path / "w.pth", "File name in directory")


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "data/1", "version", "byteorder"])
def test_one_flipped_bit_anywhere_in_a_torch_file_is_named(tmp_path, entry):
    torch.save({"a": torch.arange(64.0), "b": torch.ones(9, dtype=torch.int64)}, tmp_path / "w.pth")
    content = (tmp_path / "w.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        start, data = content.index(archive.read(f"w/{entry}")), archive.read(f"w/{entry}")
    for bit in range(0, 8 * len(data), max(8 * len(data) // 20, 1)):
        flipped = bytearray(content)
        flipped[start + bit // 8] ^= 1 << bit % 8
        (tmp_path / "w.pth").write_bytes(flipped)
        assert f"its entry w/{entry} is damaged (Bad CRC-32" in refusal(tmp_path / "w.pth")


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    """No other file can take its place between inspection and reading."""
    saved(tmp_path / "w.pth", 1.0)
    opened = []
    real = open
    monkeypatch.setattr("builtins.open", lambda path, *more, **options: opened.append(path) or real(path, *more, **options))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch read the file"))
    assert load_checkpoint_file(tmp_path / "w.pth")["w"][0, 0] == 1
    assert opened == [tmp_path / "w.pth"]


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "the file is empty"),
    (b"\n<!DOCTYPE html><html><body>404</body></html>", "looks like a web page"),
    (b"\xef\xbb\xbf<html>", "looks like a web page"),
    (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "looks like a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    (b"\x1f\x8b\x08rest", "gzip"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b'{"error": "not found"}', "no checkpoint of this kind"),
    (b"random text.", "no checkpoint of this kind"),
    (b"PK\x05\x06" + bytes(18), "without a checkpoint"),
    (b"PK\x03\x04", "cut short or damaged"),
], ids=lambda value: repr(value)[:20])  # fmt: skip
def test_what_is_no_checkpoint_is_named(tmp_path, content, reason):
    (tmp_path / "w").write_bytes(content)
    assert reason in refusal(tmp_path / "w")


def test_archives_of_other_kinds_are_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.add(tmp_path / "a.txt", "storages")
    assert "tar file" in refusal(tmp_path / "w.tar")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert "zip file without a checkpoint" in refusal(tmp_path / "w.zip")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "w.pt")
    assert "TorchScript" in refusal(tmp_path / "w.pt")


def test_a_missing_file_and_a_folder_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint_file(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        load_checkpoint_file(tmp_path)
