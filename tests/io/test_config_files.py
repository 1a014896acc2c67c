"""A config file constructs plain values only, and a chain of config files that cannot be merged is refused in one line."""

import itertools
import os

import pytest

from detcon_d2 import d2
from detcon_d2.engine import load_config
from detcon_d2.io.config_files import merge_config_file
from detcon_d2.model_zoo import get_config, model_zoo
from tests.engine.runs import output_of, start

TAGS = {
    "call": "OUTPUT_DIR: !!python/object/apply:os.mkdir ['{}']\n",
    "new object": "OUTPUT_DIR: !!python/object/new:os.mkdir ['{}']\n",
    "call inside": "MODEL:\n  WEIGHTS: {{a: [!!python/object/apply:os.mkdir ['{}']]}}\n",
    "name": "OUTPUT_DIR: !!python/name:os.getcwd\n# {}\n",
    "tuple": "SOLVER:\n  STEPS: !!python/tuple [1]\n# {}\n",
}


def chain(folder, text, names=("top.yaml", "middle.yaml", "base.yaml")):
    """Config files that name each other through _BASE_, of which the last has this text; returns the first."""
    for name, base in itertools.pairwise(names):
        (folder / name).write_text(f"_BASE_: {base}\nVERSION: 2\n")
    (folder / names[-1]).write_text(text)
    return str(folder / names[0])


def refusal(merge, *arguments) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        merge(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_anywhere_in_the_chain_is_refused_and_does_nothing(tmp_path, monkeypatch, tag, length):
    marker = tmp_path / "owned"
    path = chain(tmp_path, TAGS[tag].format(marker), ("top.yaml", "middle.yaml", "base.yaml")[-length:])
    for merge, arguments in ((load_config, (path, [])), (get_config, ("top.yaml",))):
        monkeypatch.setattr(model_zoo, "get_config_file", lambda name: path)
        message = refusal(merge, *arguments)
        assert "base.yaml" in message and "is not plain YAML" in message and "in line" in message
        assert not marker.exists()


def test_detectron2_never_sees_a_refused_file(tmp_path, monkeypatch):
    path = chain(tmp_path, TAGS["call"].format(tmp_path / "owned"))
    monkeypatch.setattr(d2.CfgNode, "merge_from_file", lambda *_, **__: pytest.fail("the file was merged"))
    refusal(load_config, path, [])


@pytest.mark.parametrize("base", ["top.yaml", "../{folder}/top.yaml", "[other.yaml, top.yaml]"])
def test_a_file_that_is_its_own_base_is_named_with_the_chain(tmp_path, base):
    (tmp_path / "other.yaml").write_text("VERSION: 2\n")
    path = chain(tmp_path, f"_BASE_: {base.format(folder=tmp_path.name)}\n")
    message = refusal(load_config, path, [])
    assert "has itself as _BASE_: " in message and message.count(" -> ") == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"MODEL: [1, 2\nSEED: 3\n", "is not plain YAML: .* in line 2"),
        (b"MODEL:\n\tSEED: 3\n", "is not plain YAML"),
        (b"\xff\xfe", "is not plain YAML"),
        (b"[" * 5000, "is not plain YAML"),
        (b"", "holds a NoneType; expected keys and values"),
        (b"- 1\n", "holds a list"),
        (None, "which .*middle.yaml names as its _BASE_, cannot be read: No such file"),
    ],
)
def test_what_is_no_config_is_named_with_the_file(tmp_path, text, reason):
    path = chain(tmp_path, "")
    (tmp_path / "base.yaml").unlink() if text is None else (tmp_path / "base.yaml").write_bytes(text)
    with pytest.raises((ValueError, FileNotFoundError), match=f"Config file .*base.yaml.*{reason}"):
        load_config(path, [])


def test_bases_are_merged_before_the_file_from_wherever_they_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.yaml").write_text(f"VERSION: 2\nOUTPUT_DIR: {name}\nSEED: {len(name)}\n")
    (tmp_path / "top.yaml").write_text(f"_BASE_: [~/one.yaml, two.yaml, {tmp_path}/three.yaml]\nVERSION: 2\nOUTPUT_DIR: top\n")
    cfg = d2.get_cfg()
    monkeypatch.chdir(os.sep)
    merge_config_file(cfg, str(tmp_path / "top.yaml"))
    assert (cfg.OUTPUT_DIR, cfg.SEED) == ("top", 5)


def test_the_tool_refuses_such_a_config_in_one_line(tmp_path):
    output = output_of(start([], config=chain(tmp_path, TAGS["call"].format(tmp_path / "owned"))), code=2)
    assert "is not plain YAML" in output and "Traceback" not in output and not (tmp_path / "owned").exists()
