"""Folders are recognised by what they hold, and find each other by the metadata of their checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from detcon_d2.checkpoint import CheckpointMetadata, read_metadata
from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.quickstart.compare.runs import Part, read_part, read_runs
from tests.checkpoint.pretrained import write_pretrained
from tests.quickstart.compare.fake import ORIGIN, write_checkpoint, write_config, write_evaluation, write_finetuning, write_pretraining


def described(arguments: list) -> dict[str, dict[str, str]]:
    return {run.name: {kind: part.folder.name for kind, part in run.parts.items()} for run in read_runs(list(map(str, arguments)))}


@pytest.fixture
def folders(tmp_path) -> Path:
    """Two pretrainings with all that started from them, in folders of any name."""
    for name, method in (("a", "SimCLR"), ("b", "DetConB")):
        origin = write_pretraining(tmp_path / name / "one", method=method)
        write_finetuning(tmp_path / name / "two", origin)
        write_evaluation(tmp_path / "probes" / name, origin)
    return tmp_path


def test_parts_of_a_run_find_each_other_in_any_order(folders):
    paths = [folders / part for part in ("probes/b", "b/two", "a/one", "probes/a", "b/one", "a/two")]
    expected = {f"{name}/one": {"pretraining": "one", "fine-tuning": "two", "evaluation": name} for name in "ab"}
    assert described(paths) == expected == described([folders])


def test_a_conversion_and_a_fine_tuning_keep_what_tells_the_origin(tmp_path):
    pretrained = write_pretrained(tmp_path / "model_final.pth")
    origin, encoder = read_metadata(pretrained), read_checkpoint(pretrained)
    convert(pretrained, tmp_path / "ema.pkl", branch="ema")
    detector = CheckpointMetadata({"method": "GeneralizedRCNN", "protocol": "standard"})
    detector.take_over(read_metadata(tmp_path / "ema.pkl"))
    write_pretraining(tmp_path / "p", **origin)
    write_checkpoint(tmp_path / "p" / "model_final.pth", origin)
    write_finetuning(tmp_path / "f", {}, **detector.values)
    write_evaluation(tmp_path / "e", encoder.metadata)
    assert described([tmp_path / name for name in "efp"]) == {"p": {"pretraining": "p", "fine-tuning": "f", "evaluation": "e"}}


def test_what_started_from_a_pretraining_that_is_not_given_is_one_run_with_its_budget(folders):
    (run,) = read_runs([str(folders / "probes/a"), str(folders / "a/two")])
    assert set(run.parts) == {"fine-tuning", "evaluation"} and run.origin["images_seen"] == 1280 and run.origin["method"] == "SimCLR"


def test_runs_without_any_pretraining_stay_alone(tmp_path):
    write_finetuning(tmp_path / "x", {})
    write_finetuning(tmp_path / "y", {})
    assert described([tmp_path / "x", tmp_path / "y"]) == {"x": {"fine-tuning": "x"}, "y": {"fine-tuning": "y"}}


def test_named_runs_have_the_folders_that_they_are_given(folders):
    a, b = folders / "a", folders / "b"
    found = read_runs([f"DetCon, FH={b / 'one'},{b / 'two'}", f"wrong={a / 'one'},{b / 'two'}", str(folders / "probes/a")])
    assert [run.name for run in found] == ["DetCon, FH", "wrong", "a"]
    assert [run.is_consistent for run in found] == [True, False, True]


def test_a_run_that_is_not_finished_is_shown_as_such(tmp_path):
    write_pretraining(tmp_path / "p", final=False, iterations=10)
    part = read_part(tmp_path / "p")
    assert not part.finished and part.progress() == "10 of 20 (not finished)"
    (tmp_path / "p" / "model_0000009.pth").unlink()
    (tmp_path / "p" / "metrics.json").write_text("")
    part = read_part(tmp_path / "p")
    assert (part.kind, part.finished, part.progress()) == ("pretraining", False, "0 of ? (not finished)")
    write_finetuning(tmp_path / "f", {})
    assert len(read_runs([str(tmp_path)])) == 2, "what has no metadata has no origin"
    (tmp_path / "f" / "results.json").unlink()
    assert (read_part(tmp_path / "f").kind, read_part(tmp_path / "f").finished) == ("fine-tuning", False)


def test_a_folder_of_an_evaluation_alone_has_the_metadata_of_what_it_evaluated(tmp_path):
    write_finetuning(tmp_path / "trained", ORIGIN)
    content = json.loads((tmp_path / "trained/results.json").read_text()) | {"weights": str(tmp_path / "trained/model_final.pth")}
    (tmp_path / "alone").mkdir()
    write_config(tmp_path / "alone", "GeneralizedRCNN")
    (tmp_path / "alone/results.json").write_text(json.dumps(content))
    assert read_part(tmp_path / "alone").origin["method"] == "SimCLR"


def empty(folder: Path) -> list:
    (folder / "empty").mkdir()
    return [folder / "empty"]


def twins(folder: Path) -> list:
    origin = write_pretraining(folder / "x")
    write_pretraining(folder / "y")
    write_finetuning(folder / "z", origin)
    return [folder]


def two_of_a_kind(folder: Path) -> list:
    origin = write_pretraining(folder / "x")
    for name in ("y", "z"):
        write_finetuning(folder / name, origin)
    return [folder]


def two_data_sets(folder: Path) -> list:
    write_finetuning(folder / "x", {})
    (folder / "x/results.json").write_text('{"backend": "b", "iteration": 1, "results": {"u": {}, "v": {}}}')
    return [folder]


def broken(folder: Path) -> list:
    write_evaluation(folder / "x", {})
    (folder / "x/evaluation.json").write_text("[1")
    return [folder]


def one_name(folder: Path) -> list:
    write_pretraining(folder / "x")
    return [f"n={folder / 'x'}", f"n={folder / 'x'}"]


REFUSED = [
    (lambda folder: [folder / "none"], "There is no folder .*none; expected an output folder"),
    (empty, "empty holds no run; expected an OUTPUT_DIR"),
    (lambda folder: [f"name={folder}"], "holds no run; expected"),
    (twins, "z may have started from each of .*x, .*y. Give the runs as NAME=DIR,DIR"),
    (two_of_a_kind, "two folders of fine-tuning: .*y and .*z; expected one of each kind"),
    (two_data_sets, "results.json holds 2 data sets; expected one"),
    (broken, "evaluation.json cannot be read"),
    (one_name, "Two runs have the name 'n'"),
]


@pytest.mark.parametrize(("prepare", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused(prepare, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_runs(list(map(str, prepare(tmp_path))))


def test_a_part_of_a_file_that_is_no_checkpoint_of_ours_has_no_metadata(tmp_path):
    write_pretraining(tmp_path / "p")
    torch.save({"model": {}}, tmp_path / "p/model_final.pth")
    assert isinstance(part := read_part(tmp_path / "p"), Part) and part.metadata == {} and part.kind == "pretraining"
