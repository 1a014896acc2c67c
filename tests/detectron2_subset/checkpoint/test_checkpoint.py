"""Checkpoints: the same files, the same names, and no code run from them."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn


def make_model(fill=None):
    backbone = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1, bias=False)})})
    backbone["res2"] = nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1, bias=False), "conv2": nn.Conv2d(1, 2, 1)})
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
    model.register_buffer("pixel_mean", torch.zeros(3))
    for value in model.state_dict().values() if fill is not None else ():
        value.fill_(fill)
    return model


def save_pickle(path, model, **extra):
    path.write_bytes(pickle.dumps({"model": model, "__author__": "me", **extra}))
    return str(path)


def ones(*shape, value=1.0):
    return np.full(shape, value, dtype=np.float32)


def load(backend, path, model=None):
    model = model or make_model(0.0)
    extra = backend.get("checkpoint").DetectionCheckpointer(model).load(path)
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}, extra


def optimizer_of(model):
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)


def step(model, optimizer):
    model["head"](torch.ones(1, 2)).sum().backward()
    optimizer.step()


def assert_resumes(writer, reader, folder):
    model = make_model(0.5)
    optimizer = optimizer_of(model)
    step(model, optimizer)
    checkpointer = writer.get("checkpoint").DetectionCheckpointer(model, str(folder), optimizer=optimizer)
    checkpointer.save("model_0000007", iteration=7, metadata={"method": "x", "sizes": [1, 2.5, None]})
    assert (folder / "last_checkpoint").read_text() == "model_0000007.pth"
    other = make_model(0.0)
    other_optimizer = optimizer_of(other)
    resumed = reader.get("checkpoint").DetectionCheckpointer(other, str(folder), optimizer=other_optimizer)
    extra = resumed.resume_or_load("never read", resume=True)
    assert extra == {"iteration": 7, "metadata": {"method": "x", "sizes": [1, 2.5, None]}}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    assert str(optimizer.state_dict()) == str(other_optimizer.state_dict())


def test_a_run_resumes_from_the_last_checkpoint(backend, tmp_path):
    assert_resumes(backend, backend, tmp_path)


def test_files_of_one_backend_resume_in_the_other(subset, real, tmp_path):
    for writer, reader in ((subset, real), (real, subset)):
        (tmp_path / writer.name).mkdir()
        assert_resumes(writer, reader, tmp_path / writer.name)


def test_files_of_both_backends_hold_the_same(subset, real, tmp_path):
    for backend in (subset, real):
        (tmp_path / backend.name).mkdir()
        model = make_model(0.5)
        backend.get("checkpoint").DetectionCheckpointer(model, str(tmp_path / backend.name), optimizer=optimizer_of(model)).save(
            "m", iteration=1
        )
    ours, theirs = (torch.load(tmp_path / backend.name / "m.pth", weights_only=True) for backend in (subset, real))
    assert list(ours) == list(theirs)
    assert str(ours) == str(theirs)


def test_loading_without_resuming_takes_the_weights_only(backend, tmp_path):
    model = make_model(0.5)
    optimizer = optimizer_of(model)
    step(model, optimizer)
    backend.get("checkpoint").DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer).save("m", iteration=1)
    other = make_model(0.0)
    other_optimizer = optimizer_of(other)
    checkpointer = backend.get("checkpoint").DetectionCheckpointer(other, str(tmp_path), optimizer=other_optimizer)
    checkpointer.resume_or_load(str(tmp_path / "m.pth"), resume=False)
    assert torch.equal(other["head"].weight, model["head"].weight)
    assert not other_optimizer.state


def test_trainer_states_survive_a_checkpoint_of_the_other_backend(subset, real, tmp_path):
    for writer, reader in ((subset, real), (real, subset)):
        folder = tmp_path / writer.name
        folder.mkdir()
        states = []
        for backend in (writer, reader):
            model = nn.Linear(1, 1)
            optimizer = optimizer_of(model)
            trainer = backend.get("engine").SimpleTrainer(model, [], optimizer)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
            trainer.register_hooks([backend.get("engine.hooks").LRScheduler(optimizer, scheduler)])
            checkpointer = backend.get("checkpoint").DetectionCheckpointer(model, str(folder), trainer=trainer)
            if backend is writer:
                optimizer.step()
                scheduler.step()
                trainer.iter = 5
                checkpointer.save("m")
            checkpointer.load(str(folder / "m.pth"))
            states.append(str(trainer.state_dict()))
        assert states[0] == states[1]


def test_an_empty_path_loads_nothing_and_a_missing_file_is_named(backend, tmp_path):
    assert load(backend, "")[1] == {}
    with pytest.raises(AssertionError, match=r"nope\.pth"):
        load(backend, str(tmp_path / "nope.pth"))


def test_pickles_of_arrays_load_by_full_name(backend, tmp_path):
    path = save_pickle(tmp_path / "x.pkl", {"backbone.stem.conv1.weight": ones(1, 1, 1, 1, value=2)}, note=5)
    weights, extra = load(backend, path)
    assert weights["backbone.stem.conv1.weight"] == [2.0]
    assert extra == {"__author__": "me", "note": 5}


def test_suffixes_are_matched_the_longest_first(backend, tmp_path):
    names = {"stem.conv1.weight": 2, "res2.conv1.weight": 3, "conv1.weight": 4, "fc.w": 5, "ead.bias": 6}
    path = save_pickle(tmp_path / "x.pkl", {k: ones(1, 1, 1, 1, value=v) for k, v in names.items()}, matching_heuristics=True)
    weights, _ = load(backend, path)
    assert (weights["backbone.stem.conv1.weight"], weights["backbone.res2.conv1.weight"]) == ([2.0], [3.0])
    assert weights["head.bias"] == [0.0, 0.0]


def test_a_query_asks_for_matching(backend, tmp_path):
    torch.save({"model": {"stem.conv1.weight": torch.full((1, 1, 1, 1), 2.0)}}, tmp_path / "x.pth")
    assert load(backend, str(tmp_path / "x.pth"))[0]["backbone.stem.conv1.weight"] == [0.0]
    assert load(backend, str(tmp_path / "x.pth?matching_heuristics=True"))[0]["backbone.stem.conv1.weight"] == [2.0]
    with pytest.raises(ValueError, match="foo"):
        load(backend, str(tmp_path / "x.pth?foo=True"))


def test_one_name_for_two_parameters_is_refused(backend, tmp_path):
    path = save_pickle(tmp_path / "x.pkl", {"conv1.weight": ones(1, 1, 1, 1)}, matching_heuristics=True)
    with pytest.raises(ValueError, match=r"multiple keys|fits both"):
        load(backend, path)


def test_another_shape_is_left_out_and_reported(backend, tmp_path, log_lines):
    lines = log_lines("detectron2.checkpoint")
    path = save_pickle(tmp_path / "x.pkl", {"res2.conv2.weight": ones(1, 1, 1, 1), "res2.conv2.bias": ones(2)}, matching_heuristics=True)
    weights, _ = load(backend, path)
    assert (weights["backbone.res2.conv2.weight"], weights["backbone.res2.conv2.bias"]) == ([0.0, 0.0], [1.0, 1.0])
    assert any("res2.conv2.weight" in line and "(1, 1, 1, 1)" in line.replace("[1, 1, 1, 1]", "(1, 1, 1, 1)") for line in lines)


def test_missing_and_unexpected_names_are_reported_but_not_constants(backend, tmp_path, log_lines):
    lines = log_lines("fvcore.common.checkpoint")
    names = ("backbone.stem.conv1.weight", "zzz", "rpn.anchor_generator.cell_anchors.0")
    load(backend, save_pickle(tmp_path / "x.pkl", {name: ones(1, 1, 1, 1) for name in names}))
    text = "\n".join(lines)
    assert "zzz" in text
    assert "head" in text
    assert "cell_anchors" not in text
    assert "pixel_mean" not in text


def test_bare_state_dicts_and_prefixes_of_data_parallel_load(backend, tmp_path):
    value = torch.full((1, 1, 1, 1), 2.0)
    torch.save({"module.backbone.stem.conv1.weight": value}, tmp_path / "x.pth")
    assert load(backend, str(tmp_path / "x.pth"))[0]["backbone.stem.conv1.weight"] == [2.0]


class Attack:
    """Unpickling this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("ending", ["pkl", "pth"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(subset, tmp_path, ending):
    content = {"model": {}, "__author__": Attack(str(tmp_path / "owned"))}
    if ending == "pkl":
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"not loaded(.|\n)*mkdir(.|\n)*Expected"):
        load(subset, str(tmp_path / f"x.{ending}"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_of_every_pickle_protocol_are_read(subset, tmp_path, protocol):
    content = OrderedDict(
        a=ones(2, 3), b=np.asfortranarray(ones(2, 3)), c=np.float32(2.5), d=[1, "x", None, b"\xff", {2.5}], e=np.arange(3)[::-1]
    )
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    found = subset.get("checkpoint.safe_load").load_pickle(str(tmp_path / "x.pkl"))
    assert list(found) == list("abcde")
    assert np.array_equal(found["a"], content["a"])
    assert np.array_equal(found["b"], content["b"])
    assert np.array_equal(found["e"], content["e"])
    assert (found["c"], found["d"]) == (content["c"], content["d"])


def test_names_of_numpy_before_and_after_2_are_known(subset, tmp_path):
    data = pickle.dumps(ones(2), 2)
    for core in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        (tmp_path / "x.pkl").write_bytes(data.replace(b"numpy._core.multiarray", core).replace(b"numpy.core.multiarray", core))
        assert np.array_equal(subset.get("checkpoint.safe_load").load_pickle(str(tmp_path / "x.pkl")), ones(2))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"model": ones(50)})[:-20]])
def test_files_that_are_cut_short_or_no_pickles_are_refused_by_name(subset, tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.pkl is not loaded"):
        load(subset, str(tmp_path / "x.pkl"))


def test_a_pickle_of_something_else_is_refused_by_name(subset, tmp_path):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([ones(2)]))
    with pytest.raises(ValueError, match=r"x\.pkl holds a list; expected a dict of weights"):
        load(subset, str(tmp_path / "x.pkl"))


def test_only_the_main_process_saves_unless_told(backend, tmp_path):
    checkpointer = backend.get("checkpoint").DetectionCheckpointer(make_model(), str(tmp_path), save_to_disk=False)
    checkpointer.save("m")
    assert list(tmp_path.iterdir()) == []
    assert backend.get("checkpoint").DetectionCheckpointer(make_model()).save_to_disk
