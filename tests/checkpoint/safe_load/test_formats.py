"""Every kind of checkpoint file loads from its content, into plain containers."""

import argparse
import pickle
import sys
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detcon_d2.checkpoint import UnsafeCheckpointError, load_checkpoint_file
from tests.checkpoint.attacks import CONTAINERS, npy, text

WEIGHTS = {
    "model": OrderedDict(a=np.arange(6, dtype="f4").reshape(2, 3), b=np.array(2, "i8")),
    "step": 7,
    "scale": np.float32(2.5),
    "name": "é",
    "list": [1.5, (None, True)],
}


def check_equal(found, expected):
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected)
        for key in expected:
            check_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected):
            check_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    elif isinstance(expected, np.ndarray):
        assert type(found) is np.ndarray and found.dtype == expected.dtype.newbyteorder("=") and found.flags.writeable
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected or (found != found and expected != expected)


def as_tensors(value):
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: as_tensors(item) for key, item in value.items()}
    return type(value)(map(as_tensors, value)) if isinstance(value, list | tuple) else value


def write(path, kind, value):
    """Returns what must be read back."""
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(value, protocol=int(kind[-1])))
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.array(value, dtype=object) if isinstance(value, dict) else value)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez_compressed(file, weights=np.array(value, dtype=object), numbers=np.arange(3))
        return {"weights": value, "numbers": np.arange(3)}
    else:
        value = as_tensors(value)
        torch.save(value, path, _use_new_zipfile_serialization=kind == "zip torch")
    return value


KINDS = [*(f"pickle {protocol}" for protocol in range(pickle.HIGHEST_PROTOCOL + 1)), "npy", "npz", "zip torch", "legacy torch"]


@pytest.mark.parametrize("suffix", ["", ".pkl", ".pth"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_content_and_not_the_name_decides_the_kind(tmp_path, kind, suffix):
    path = tmp_path / f"weights{suffix}"
    expected = write(path, kind, WEIGHTS)
    check_equal(load_checkpoint_file(path), expected)


@pytest.mark.parametrize("count", [1, 9])  # another length of the header, so another first byte
def test_safetensors_are_recognised_by_their_content(tmp_path, count):
    safetensors = pytest.importorskip("safetensors.torch")
    path, tensors = tmp_path / "weights.pth", {f"{index}": torch.arange(3.0) for index in range(count)}
    safetensors.save_file(tensors, path)
    check_equal(load_checkpoint_file(path), {"model": tensors})
    safetensors.save_file(tensors, path, {"metadata": '{"depth": 50, "pixel_mean": [1.5]}'})
    check_equal(load_checkpoint_file(path), {"model": tensors, "metadata": {"depth": 50, "pixel_mean": [1.5]}})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnsafeCheckpointError, match=r"weights\.pth: .*cut short"):
        load_checkpoint_file(path)


def test_safetensors_without_the_package_say_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "w").write_bytes((2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UnsafeCheckpointError, match="pip install safetensors"):
        load_checkpoint_file(tmp_path / "w")


@pytest.mark.parametrize("value", [{"00{": None}, {"00{": {}}])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_brace_where_safetensors_have_their_header_does_not_make_a_pickle_one(tmp_path, protocol, value):
    (tmp_path / "w").write_bytes(pickle.dumps(value, protocol))
    assert load_checkpoint_file(tmp_path / "w") == value


def test_a_held_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"a": 1}))
    first = load_checkpoint_file(path, hold=True)
    assert load_checkpoint_file(path, hold=None) is first and load_checkpoint_file(path) is first
    assert load_checkpoint_file(path, hold=True) is not first
    path.write_bytes(pickle.dumps({"a": "changed"}))
    assert load_checkpoint_file(path) == {"a": "changed"}


@pytest.mark.parametrize("name", ["haiku_tiny.npy", "haiku_tiny_flatdict.npy", "haiku_tiny_with_heads.npy"])
def test_the_released_layouts_load_as_numpy_loads_them(shared_dir, name):
    path = shared_dir / "oracles" / name
    check_equal(load_checkpoint_file(path), np.load(path, allow_pickle=True).item())


def test_a_tuple_in_a_numpy_file_comes_back_as_a_tuple(tmp_path):
    value = ({"w": np.ones(2)}, {"average": np.zeros(2)})
    np.save(tmp_path / "w.npy", np.array(value, dtype=object))
    check_equal(load_checkpoint_file(tmp_path / "w.npy"), value)


def test_plain_numbers_in_a_numpy_file_are_no_checkpoint(tmp_path):
    np.save(tmp_path / "w.npy", np.ones((2, 3)))
    with pytest.raises(UnsafeCheckpointError, match=r"w\.npy: it holds one array of shape \(2, 3\) and type float64, not named weights"):
        load_checkpoint_file(tmp_path / "w.npy")


def reduced(path, *arguments):
    """Protocol 2 of the call of a class that is not installed here."""
    module, _, name = path.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def body(value):
    """The pickle of a value without its start and its end, to put into another one; its memo is not used."""
    return pickle._dumps(value, protocol=2)[2:-1]


def jax_array(path, array, dtype=b""):
    make, arguments, state = np.asarray(array).__reduce__()
    version, shape, found, fortran, content = state
    described = dtype or body(found)
    encoded = b"(" + body(version) + body(shape) + described + body(fortran) + body(content) + b"t"
    return reduced(path, body(make), body(arguments), encoded, body({"weak_type": False}))


@pytest.mark.parametrize("name", ["FlatMapping", "FlatMap", "frozendict"])
@pytest.mark.parametrize("path", ["jax._src.array._reconstruct_array", "jax._src.device_array.reconstruct_device_array"])
def test_haikus_mappings_are_dicts_and_jaxs_arrays_numpys_without_either_installed(tmp_path, name, path):
    array = np.arange(6, dtype="f4").reshape(2, 3)
    inner = reduced(f"haiku._src.data_structures.{name}", b"}" + text("w") + jax_array(path, array) + b"s")
    content = b"\x80\x02" + reduced(f"haiku._src.data_structures.{name}", b"}" + text("conv") + inner + b"s") + b"."
    for stored in (content, npy(b"\x80\x02" + content[2:])):
        (tmp_path / "w").write_bytes(stored)
        found = load_checkpoint_file(tmp_path / "w")
        assert type(found) is dict and type(found["conv"]) is dict
        check_equal(found, {"conv": {"w": array}})


def test_bfloat16_arrays_are_widened_exactly(tmp_path):
    numbers = torch.tensor([1.0, -2.5, 3.0e38, float("inf")]).bfloat16()
    bits = numbers.view(torch.int16).numpy().view("u2")
    dtype = reduced("numpy.dtype", b"cml_dtypes\nbfloat16\n", body(False), body(True)) + body((3, "<", None, None, None, 2, 2, 64)) + b"b"
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + jax_array("jax._src.array._reconstruct_array", bits, dtype) + b".")
    check_equal(load_checkpoint_file(tmp_path / "w.pkl"), numbers.float().numpy())


@pytest.mark.parametrize("protocol", [0, 2])
def test_byte_strings_of_python_2_are_latin_1(tmp_path, protocol):
    content = np.array([1.0, -2.0], "<f4").tobytes()
    if protocol:
        stored = b"U" + bytes([len(content)]) + content
    else:
        stored = b"S'" + content.decode("latin-1").encode("unicode_escape") + b"'\n"
    dtype = b"cnumpy\ndtype\n(" + text("f4") + b"I0\nI1\ntR(I3\n" + text("<") + b"NNNI-1\nI-1\nI0\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt" + dtype + b"I00\n" + stored + b"tb"
    (tmp_path / "w.pkl").write_bytes(b"(dS'blobs'\n(dS'conv1_w'\n" + array + b"ss.")
    check_equal(load_checkpoint_file(tmp_path / "w.pkl"), {"blobs": {"conv1_w": np.array([1.0, -2.0], "f4")}})


@pytest.mark.parametrize("array", [
    np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">f8"), np.zeros((0, 4), "f2"), np.array([True, False]),
    np.array([1 + 2j]), np.array(["ab", "c"]), np.array([b"ab"]), np.array([b"xy"], "V2"), np.arange(8.0)[::2],
], ids=lambda array: str(array.dtype))  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_every_order_and_plain_type_are_read(tmp_path, array, protocol):
    (tmp_path / "w.pkl").write_bytes(
        pickle.dumps({"a": array, "scalar": array.dtype.type(array.flat[0]) if array.size else None}, protocol=protocol)
    )
    found = load_checkpoint_file(tmp_path / "w.pkl")
    check_equal(found["a"], array)
    if array.size:
        assert found["scalar"] == array.flat[0]


@pytest.mark.parametrize("zipped", [True, False])
def test_options_and_numpy_scalars_in_a_torch_file_are_inert(tmp_path, zipped):
    value = {
        "args": argparse.Namespace(lr=0.1, arch="r50"),
        "best": np.float64(71.5),
        "table": np.arange(3),
        "history": defaultdict(list, a=[1]),
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, **value}, tmp_path / "w.pth.tar", _use_new_zipfile_serialization=zipped)
    found = load_checkpoint_file(tmp_path / "w.pth.tar")
    assert type(found["args"]) is dict and found["args"] == {"lr": 0.1, "arch": "r50"}
    assert found["best"] == 71.5 and found["history"] == {"a": [1]}
    check_equal(found["table"], np.arange(3))


def test_the_versions_of_a_state_dict_are_kept(tmp_path):
    torch.save(torch.nn.BatchNorm2d(2).state_dict(), tmp_path / "w.pth")
    assert load_checkpoint_file(tmp_path / "w.pth")._metadata[""] == {"version": 2}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("zipped", [True, False])
def test_every_pickle_protocol_of_torch_is_read(tmp_path, protocol, zipped):
    value = {"a": torch.arange(6).view(2, 3), "b": [torch.ones(2, dtype=torch.bfloat16), "c"]}
    torch.save(value, tmp_path / "w.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    check_equal(load_checkpoint_file(tmp_path / "w.pth"), value)


def tensors_of_every_kind():
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.bool]
    dtypes += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64, torch.float8_e4m3fn]
    plain = {str(dtype): torch.arange(8, dtype=torch.uint8).repeat(4).view(dtype) for dtype in dtypes}
    base = torch.arange(24.0)
    views = {"part": base[3:9], "step": base[::5], "turned": base.view(4, 6).t(), "expanded": base[:1].expand(20), "one": base[2]}
    return plain | views | {"empty": torch.empty(0, 3), "no storage": torch.empty(0), "parameter": torch.nn.Parameter(base[:2].clone())}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", tensors_of_every_kind())
def test_a_tensor_of_any_type_and_layout_is_read_as_it_was_written(tmp_path, name, zipped):
    value = {name: tensors_of_every_kind()[name], "other": torch.ones(1)}
    torch.save(value, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found, expected = load_checkpoint_file(tmp_path / "w.pth")[name], value[name]
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert not found.requires_grad
    raw = [x.detach().contiguous().flatten().view(torch.uint8) for x in (found, expected)]
    assert torch.equal(*raw)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_share_memory_still_share_it(tmp_path, zipped):
    base = torch.zeros(4)
    torch.save({"a": base, "b": base[1:]}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = load_checkpoint_file(tmp_path / "w.pth")
    found["a"][2] = 5
    assert found["b"].tolist() == [0, 5, 0]


def test_a_file_that_was_written_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    check_equal(load_checkpoint_file(tmp_path / "w.pth"), {"a": torch.ones(3)})


def foreign(path, *arguments):
    """An object of a class that is not installed here, with a state, and in it an array."""
    return reduced(path, *arguments) + body({"log": np.arange(3.0), "self": None}) + b"b"


LEFT_OUT = {
    "history": foreign("mmengine.logging.history_buffer.HistoryBuffer"),
    "options": foreign("omegaconf.dictconfig.DictConfig") + b"(" + text("a") + b"K\x01u",
    "date": reduced("datetime.datetime", body(b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00")),
    "path": reduced("pathlib.PosixPath", body("/data")),
    "function": b"ctorch.nn.functional\nrelu\n",
    "set": reduced("__builtin__.set", body([1, 2])),
    "queue": reduced("collections.deque", body([]), body(3)) + b"(K\x01K\x02e",
    "type": b"cnumpy\ndtype\n",
    "objects": body(np.array([{"a": 1}, None])),
    "dates": body(np.array(["2024-01-01"], "M8[D]")),
    "call": reduced("os.mkdir", body("owned")),
}
"""What people put beside their weights: the pickle of each, in protocol 2."""


@pytest.mark.parametrize("container", ["pickle", "npy", "legacy torch", "zip torch"])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_no_weight_is_left_out_without_being_built(tmp_path, monkeypatch, caplog, name, container):
    monkeypatch.chdir(tmp_path)
    item = LEFT_OUT[name]
    items = (
        text("state_dict")
        + body({"w": np.ones(2)})
        + text("extra")
        + item
        + text("inside")
        + b"("
        + item
        + b"K\x05l"
        + text("step")
        + b"K\x07"
    )
    CONTAINERS[container](tmp_path / "w", b"\x80\x02(" + items + b"d.")
    with caplog.at_level("INFO"):
        check_equal(load_checkpoint_file(tmp_path / "w"), {"state_dict": {"w": np.ones(2)}, "inside": [None, 5], "step": 7})
    assert "without being built: " in caplog.text
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("container", ["pickle", "legacy torch", "zip torch"])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_a_file_without_weights_names_what_it_asks_for(tmp_path, monkeypatch, name, container):
    monkeypatch.chdir(tmp_path)
    CONTAINERS[container](tmp_path / "w", b"\x80\x02}" + text("model") + LEFT_OUT[name] + b"s.")
    with pytest.raises(UnsafeCheckpointError, match=r"asks for|has an array|holds numpy\.dtype itself"):
        load_checkpoint_file(tmp_path / "w")
    assert not (tmp_path / "owned").exists()


numbers = st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.none() | st.text(max_size=5)
weights = arrays.arrays(
    st.sampled_from(["f4", "f8", "i8", "u1", "?", "f2"]), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
)
trees = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        numbers | weights, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=25)
@given(tree=trees)
def test_random_containers_survive_the_round_trip(tmp_path_factory, kind, tree):
    path = tmp_path_factory.mktemp("w") / "w"
    expected = write(path, kind, tree)
    check_equal(load_checkpoint_file(path), expected)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A valid file of each kind, as bytes."""
    contents = {}
    for kind in KINDS:
        path = tmp_path_factory.mktemp("valid") / "w"
        write(path, kind, {**WEIGHTS, "options": [np.float32(1.5), b"bytes"]})
        contents[kind] = path.read_bytes()
    return contents


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_damaged_file_loads_or_is_refused_by_name(valid, tmp_path_factory, kind, data):
    content = bytearray(valid[kind])
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    path = tmp_path_factory.mktemp("damaged") / "w"
    path.write_bytes(content[:cut])
    try:
        load_checkpoint_file(path)
    except UnsafeCheckpointError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_refused(valid, tmp_path, kind):
    content = valid[kind]
    for end in range(1, len(content) - 1, max(len(content) // 20, 1)):
        (tmp_path / "w").write_bytes(content[:end])
        with pytest.raises(UnsafeCheckpointError):
            load_checkpoint_file(tmp_path / "w")
