"""Files that would run code or exhaust memory: refused with the reason, and nothing of them ran."""

import pickle
import struct
import tarfile
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


@pytest.mark.parametrize("name", ["bytearray", "_codecs.encode"])
def test_a_small_file_that_copies_its_bytes_very_often_is_refused(tmp_path, name):
    module, _, function = f"builtins.{name}".rpartition(".") if name == "bytearray" else name.rpartition(".")
    content = bytes(2**20) if name == "bytearray" else "\0" * 2**20
    stored = pickle._dumps(content, protocol=3)[2:-1]
    arguments = b"h\x01\x85" if name == "bytearray" else b"h\x01" + text("latin1") + b"\x86"
    call = f"c{module}\n{function}\n".encode() + arguments + b"R"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x03" + stored + b"q\x010](" + call * 30_000 + b"e.")
    assert "makes far more arrays or bytes than it holds" in refusal(tmp_path / "w.pkl")


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
