"""Generators on the command line: every flag, default and help text comes from the fields of the generators."""

import argparse
from dataclasses import dataclass

import numpy as np
import pytest

from detcon_d2.masks import REGION_GENERATOR_REGISTRY, LabelMapStore
from detcon_d2.masks.command_lines import generate_command
from detcon_d2.masks.commands.arguments import add_generator_arguments, add_source_arguments, generator_from, parse_generator, sources_from
from detcon_d2.masks.generators.base import RegionGenerator, parameter


@dataclass(frozen=True, kw_only=True)
class Everything(RegionGenerator):
    """A parameter of every type."""

    name = "everything"
    share: float = parameter(0.5, "50 % of it", at_least=0)
    count: int = parameter(3, "number")
    fast: bool = parameter(True, "or slow")
    mode: str = parameter("a", "letter")
    levels: tuple[float, ...] = parameter((1.0, 2.5), "several numbers")
    scale: int = parameter(7, "as fh's")


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGION_GENERATOR_REGISTRY, "everything", Everything)


def parsed(*words: str) -> RegionGenerator:
    parser = argparse.ArgumentParser()
    add_generator_arguments(parser)
    return generator_from(parser.parse_args(words))


def test_flags_are_those_of_the_registry(everything):
    generator = parsed("--generator", "everything", "--share", "2", "--count", "5", "--fast", "false", "--levels", "3,4.5", "--scale", "9")
    assert generator.params() == {"share": 2.0, "count": 5, "fast": False, "mode": "a", "levels": [3.0, 4.5], "scale": 9}
    assert isinstance(generator.share, float)


def test_flags_of_released_versions_still_work():
    assert parsed().params() == {"scale": 1000.0, "sigma": 0.8, "min_size": 1000}
    assert parsed("--scale", "100", "--min-size", "50").params() == {"scale": 100.0, "sigma": 0.8, "min_size": 50}
    assert parsed("--generator", "grid", "--grid", "5").params() == {"size": 5}


def test_help_names_generators_and_defaults(everything, capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "grid: N x N rectangles (default: 2)" in text and "everything: 50 % of it (default: 0.5)" in text
    assert "several numbers (default: 1,2.5)" in text and "everything 7" in text and "fh 1000" in text


@pytest.mark.parametrize("name", [*sorted(REGION_GENERATOR_REGISTRY), "everything"])
def test_the_recommended_command_gives_the_parameters_back(everything, name):
    values = {"share": 1 / 3, "count": 2, "fast": False, "mode": "b", "levels": [0.1, 1e6], "scale": 123456789}
    params = REGION_GENERATOR_REGISTRY[name](**(values if name == "everything" else {})).params()
    command = generate_command("folder:/x", "/m", {"generator": name, "params": params, "format": "detcon_d2 label maps, PNG"})
    words = command.replace("''", "").split(" ")[4:]
    assert words[:2] == ["--generator", name] and parsed(*words).params() == params


def test_a_source_is_one_text(everything):
    assert parse_generator("fh scale=300 min-size=100").params() == {"scale": 300.0, "sigma": 0.8, "min_size": 100}
    assert parse_generator("everything mode='b c' levels=1").params()["mode"] == "b c"
    assert parse_generator("everything levels=1").levels == (1.0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fh 300", "found '300'; expected NAME param=value"),
        ("fh scale=big", "'fh': found scale 'big'; expected a number, such as 1000"),
        ("fh min_size=1.5", "found min_size '1.5'; expected a whole number"),
        ("everything fast=1", "found fast '1'; expected true or false"),
        ("everything levels=1,x", "found levels '1,x'; expected a number, such as 1,2.5"),
        ("grid scale=3", "found parameter scale; expected size"),
        ("grid name=fh", "found parameter name; expected size"),
        ("nothing", "found 'nothing'; expected one of"),
        ("", "found ''; expected one of"),
        ("imported", "found no parameter masks"),
    ],
)
def test_wrong_sources_are_named(everything, text, message):
    with pytest.raises(ValueError, match=message):
        parse_generator(text)


def sources(*words: str, annotated: bool = False) -> dict:
    parser = argparse.ArgumentParser()
    add_source_arguments(parser)
    return sources_from(parser.parse_args(words), annotated)


def test_default_sources_are_all_that_need_nothing_more():
    assert {"fh", "grid"} <= sources().keys() and not {"annotations", "imported"} & sources().keys()
    assert sources(annotated=True).keys() - sources().keys() == {"annotations"}
    assert list(sources("--source", "grid", "--source", "fh scale=3")) == ["grid", "fh scale=3"]


def test_folders_are_sources_by_their_names(tmp_path):
    for name in ("a/masks", "b/masks", "c"):
        store = LabelMapStore.create(tmp_path / name, "grid", {"size": 2}, "folder:/x")
        store.write("1.png", np.full((2, 2), 7, np.uint16))
    found = sources("--masks", f"{tmp_path}/a/masks/", "--masks", f"{tmp_path}/b/masks", "--masks", f"{tmp_path}/c")
    assert list(found) == [f"{tmp_path}/a/masks/", f"{tmp_path}/b/masks", "c"]
    assert found["c"](np.zeros((2, 2, 3), np.uint8), None, {"key": "1.png"}).tolist() == [[[7, 7], [7, 7]]]
    with pytest.raises(ValueError, match="index"):
        sources("--masks", str(tmp_path))
