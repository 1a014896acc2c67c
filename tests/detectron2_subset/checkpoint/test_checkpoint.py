"""Checkpoints: both backends read and write the same files, and the subset runs no code from them."""

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn


def make_model(fill=0.0):
    """A backbone of three convolutions and a head, every number ``fill``."""
    backbone = nn.ModuleDict({"stem": nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1, bias=False)})})
    backbone["res2"] = nn.ModuleDict({"conv1": nn.Conv2d(1, 1, 1, bias=False), "conv2": nn.Conv2d(1, 2, 1)})
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(2, 2)})
    model.register_buffer("pixel_mean", torch.zeros(3))
    for value in model.state_dict().values():
        value.fill_(fill)
    return model


def save_pickle(path, model, **extra):
    path.write_bytes(pickle.dumps({"model": model, "__author__": "me", **extra}))
    return str(path)


def ones(*shape, value=1.0):
    return np.full(shape, value, dtype=np.float32)


def load(backend, path):
    """Load into a model of zeros; return its numbers by name, and the other entries of the file."""
    model = make_model()
    extra = backend.get("checkpoint").DetectionCheckpointer(model).load(str(path))
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}, extra


def training(backend, folder, fill):
    """A model, its trainer with a scheduler as a hook, and their checkpointer; the optimizer has a momentum."""
    model = make_model(fill)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    trainer = backend.get("engine").TrainerBase()
    trainer.register_hooks([backend.get("engine.hooks").LRScheduler(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2))])
    checkpointer = backend.get("checkpoint").DetectionCheckpointer(model, str(folder), optimizer=optimizer, trainer=trainer)
    return model, optimizer, trainer, checkpointer


def step(model, optimizer, trainer):
    model["head"](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    trainer._hooks[0].scheduler.step()
    trainer.iter = 7


def assert_resumes(writer, reader, folder):
    *run, checkpointer = training(writer, folder, 0.5)
    step(*run)
    checkpointer.save("model_0000007", iteration=7, metadata={"method": "x", "sizes": [1, 2.5, None]})
    assert (folder / "last_checkpoint").read_text() == "model_0000007.pth"
    *other, resumed = training(reader, folder, 0.0)
    extra = resumed.resume_or_load("never read", resume=True)
    assert extra == {"iteration": 7, "metadata": {"method": "x", "sizes": [1, 2.5, None]}}
    assert [str(part.state_dict()) for part in run] == [str(part.state_dict()) for part in other]


def test_a_run_resumes_from_the_last_checkpoint(backend, tmp_path):
    assert_resumes(backend, backend, tmp_path)


@pytest.mark.parametrize("direction", [1, -1])
def test_files_of_one_backend_resume_in_the_other(subset, real, tmp_path, direction):
    assert_resumes(*(subset, real)[::direction], tmp_path)


def test_only_the_main_process_saves_unless_specified(backend, tmp_path):
    checkpointer = backend.get("checkpoint").DetectionCheckpointer
    checkpointer(make_model(), str(tmp_path), save_to_disk=False).save("m")
    assert list(tmp_path.iterdir()) == [] and checkpointer(make_model()).save_to_disk


def test_suffixes_are_matched_the_longest_first(backend, tmp_path, log_lines):
    lines = log_lines("detectron2.checkpoint")
    values = {"stem.conv1.weight": 2, "res2.conv1.weight": 3, "conv1.weight": 4, "fc.w": 5, "ead.bias": 6, "res2.conv2.weight": 7}
    arrays = {name: ones(1, 1, 1, 1, value=value) for name, value in values.items()} | {"res2.conv2.bias": ones(2)}
    weights, extra = load(backend, save_pickle(tmp_path / "x.pkl", arrays, matching_heuristics=True, note=5))
    assert (weights["backbone.stem.conv1.weight"], weights["backbone.res2.conv1.weight"]) == ([2.0], [3.0])
    assert weights["head.bias"] == [0.0, 0.0] and extra["note"] == 5
    # A tensor of another shape is left out, and reported.
    assert (weights["backbone.res2.conv2.weight"], weights["backbone.res2.conv2.bias"]) == ([0.0, 0.0], [1.0, 1.0])
    assert any("res2.conv2.weight" in line and "1, 1, 1, 1" in line for line in lines)


def test_a_query_asks_for_matching(backend, tmp_path):
    torch.save({"model": {"stem.conv1.weight": torch.full((1, 1, 1, 1), 2.0)}}, tmp_path / "x.pth")
    assert load(backend, tmp_path / "x.pth")[0]["backbone.stem.conv1.weight"] == [0.0]
    assert load(backend, f"{tmp_path}/x.pth?matching_heuristics=True")[0]["backbone.stem.conv1.weight"] == [2.0]
    with pytest.raises(ValueError, match="foo"):
        load(backend, f"{tmp_path}/x.pth?foo=True")


def test_one_name_for_two_parameters_is_refused(backend, tmp_path):
    path = save_pickle(tmp_path / "x.pkl", {"conv1.weight": ones(1, 1, 1, 1)}, matching_heuristics=True)
    with pytest.raises(ValueError, match=r"multiple keys|fits both"):
        load(backend, path)


def test_missing_and_unexpected_names_are_reported_except_constants(backend, tmp_path, log_lines):
    lines = log_lines("fvcore.common.checkpoint")
    names = ("backbone.stem.conv1.weight", "zzz", "rpn.anchor_generator.cell_anchors.0")
    load(backend, save_pickle(tmp_path / "x.pkl", {name: ones(1, 1, 1, 1) for name in names}))
    text = "\n".join(lines)
    assert "zzz" in text and "head" in text
    assert "cell_anchors" not in text and "pixel_mean" not in text


def test_bare_state_dicts_and_prefixes_of_data_parallel_load(backend, tmp_path):
    torch.save({"module.backbone.stem.conv1.weight": torch.full((1, 1, 1, 1), 2.0)}, tmp_path / "x.pth")
    assert load(backend, tmp_path / "x.pth")[0]["backbone.stem.conv1.weight"] == [2.0]


class Attack:
    """Unpickling this object runs a command."""

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
        load(subset, tmp_path / f"x.{ending}")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_plain_values_of_every_pickle_protocol_are_read(subset, tmp_path, protocol):
    content = OrderedDict(a=ones(2, 3), b=np.asfortranarray(ones(2, 3)), c=np.arange(3)[::-1], d=np.float32(2.5), e=[1, "x", None, b"\xff"])
    data = pickle.dumps(content, protocol)
    # numpy 2 renamed the module numpy.core.
    for core in (b"numpy.core.", b"numpy._core."):
        renamed = data.replace(b"numpy._core.", core).replace(b"numpy.core.", core) if protocol < 4 else data
        (tmp_path / "x.pkl").write_bytes(renamed)
        found = subset.get("checkpoint.safe_load").load_file(str(tmp_path / "x.pkl"))
        assert list(found) == list("abcde") and (found["d"], found["e"]) == (content["d"], content["e"])
        assert all(np.array_equal(found[name], content[name]) for name in "abc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not loaded"),
        (b"no pickle", "is not loaded"),
        (pickle.dumps({"model": ones(50)})[:-20], "is not loaded"),
        (pickle.dumps([ones(2)]), "contains a list; expected a dict of weights"),
    ],
)
def test_damaged_files_and_other_content_are_refused_by_name(subset, tmp_path, content, message):
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.pkl {message}"):
        load(subset, tmp_path / "x.pkl")
