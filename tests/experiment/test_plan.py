"""A plan is read with absolute paths, and what is wrong in it is named."""

from pathlib import Path

import pytest
import yaml

from detcon_d2.experiment.plan import read_plan
from tests.annotated import write_coco


def plan_file(folder: Path, **changes: object) -> Path:
    """A plan of a random and a pretrained method in the folder, with changed keys; None removes a key."""
    spec = write_coco(folder)
    content = {"output": str(folder / "out"), "images": str(folder / "images"), "train": spec, "test": spec}
    content |= {"detector": "quickstart/mask_rcnn_R_18_FPN.yaml", "seeds": [0, 1], "budgets": [130], "regions": {"fh": "--generator fh"}}
    content["methods"] = {"random": {}, "detcon": {"config": "quickstart/detcon_s_R_18.yaml", "regions": "fh", "options": {"SEED": 3}}}
    content |= changes
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False))
    return path


def test_paths_are_absolute_and_defaults_are_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = read_plan(plan_file(tmp_path, output="here", images="images"))
    assert plan.output == tmp_path / "here" and plan.methods["detcon"].images == f"folder:{tmp_path / 'images'}"
    assert Path(plan.detector).is_file() and Path(plan.methods["detcon"].config).is_absolute()
    assert plan.methods["detcon"].options == ("SEED", "3") and plan.regions["fh"] == ("--generator", "fh")
    assert (plan.baselines, plan.fractions, plan.sweep, plan.validation) == (("random",), (1.0,), ((),), 0.2)


def test_the_sweep_is_every_combination(tmp_path):
    plan = read_plan(plan_file(tmp_path, sweep={"SOLVER.BASE_LR": [1e-3, 2e-3], "SOLVER.WEIGHT_DECAY": [0.05, 0.1]}))
    assert len(plan.sweep) == 4 and plan.sweep[1] == ("SOLVER.BASE_LR", "0.001", "SOLVER.WEIGHT_DECAY", "0.1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": [5]}, "budget is not a key here; did you mean budgets"),
        ({"test": None}, "test missing"),
        ({"test": "photos"}, "test: found photos; expected a data set"),
        ({"detector": "no.yaml"}, "detector: Config file no.yaml does not exist"),
        ({"seeds": [1, 1]}, "seeds: found \\[1, 1\\]"),
        ({"seeds": [-1]}, "numbers >= 0"),
        ({"budgets": []}, "budgets: found \\[\\]"),
        ({"budgets": [True]}, "budgets: found"),
        ({"fractions": [1.5]}, "numbers in \\(0, 1\\]"),
        ({"validation": 2}, "validation: found 2"),
        ({"validation": "photos"}, "validation: found photos"),
        ({"baselines": ["one"]}, "baselines: found one; expected names of methods: random, detcon"),
        ({"regions": {"fh": "--generator felz"}}, "regions: fh: found '--generator felz'"),
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"a b": {}}}, "expected a name of letters"),
        ({"methods": {"a": {"regions": "x"}}}, "regions: found x; expected one of fh"),
        ({"methods": {"a": {"config": "quickstart/simclr_R_18.yaml", "weights": "b"}}}, "found config and weights"),
        ({"methods": {"a": {"config": "quickstart/simclr_R_18.yaml"}}, "images": None}, "neither it nor the plan has images"),
        ({"methods": {"a": "x"}}, "methods: a: found 'x'; expected keys with values"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        read_plan(plan_file(tmp_path, **changes))


def test_tags_are_refused(tmp_path):
    (tmp_path / "plan.yaml").write_text("output: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="is not plain YAML"):
        read_plan(tmp_path / "plan.yaml")
