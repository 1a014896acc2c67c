"""The config tree behaves as Detectron2's, and has the same keys and values."""

import pytest
import yaml


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def typed(value):
    return (type(value), [typed(item) for item in value]) if isinstance(value, list | tuple) else (type(value), value)


def test_keys_values_and_types_equal_detectron2s(subset, real):
    ours, theirs = ({key: typed(value) for key, value in leaves(backend.get("config").get_cfg())} for backend in (subset, real))
    assert ours == theirs


def test_get_cfg_returns_independent_copies_with_tuples(backend):
    first, second = (backend.get("config").get_cfg() for _ in range(2))
    first.MODEL.PIXEL_MEAN[0], first.SOLVER.BASE_LR = -1.0, 7.0
    assert second.MODEL.PIXEL_MEAN[0] != -1.0 and second.SOLVER.BASE_LR != 7.0 and not second.is_frozen()
    assert second.INPUT.MIN_SIZE_TRAIN == (800,) and second.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[1] == (20.0, 20.0, 10.0, 10.0)


def test_a_file_overrides_its_base_and_the_command_line_overrides_the_file(backend, tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\nSOLVER:\n  MAX_ITER: 5\n  STEPS: (2,)\nVERSION: 2\n")
    (tmp_path / "run.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 7}\n")
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_file(str(tmp_path / "run.yaml"))
    cfg.merge_from_list(["DATASETS.TRAIN", "('a',)", "SOLVER.WEIGHT_DECAY_BIAS", "1e-3"])
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (3, 7, (2,))
    assert (cfg.DATASETS.TRAIN, cfg.SOLVER.WEIGHT_DECAY_BIAS) == (("a",), 1e-3)


@pytest.mark.parametrize(
    ("text", "error", "message"), [("MODEL: {NOPE: 1}\nVERSION: 2", KeyError, r"MODEL\.NOPE"), ("VERSION: 3", None, "3")]
)
def test_unknown_keys_and_newer_versions_are_refused(backend, tmp_path, text, error, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(error or (ValueError, AssertionError), match=message):
        backend.get("config").get_cfg().merge_from_file(str(tmp_path / "bad.yaml"))


def test_the_subset_refuses_old_versions_and_says_what_to_do(subset, tmp_path):
    (tmp_path / "old.yaml").write_text("VERSION: 1\nMODEL: {WEIGHT: x}\n")
    with pytest.raises(ValueError, match=r"VERSION 1.*VERSION 2.*Detectron2"):
        subset.get("config").get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


def test_the_subset_runs_no_code_from_yaml_by_default(subset, tmp_path):
    (tmp_path / "run.yaml").write_text("SEED: !!python/object/apply:eval ['1 + 1']\nVERSION: 2\n")
    cfg = subset.get("config").get_cfg()
    with pytest.raises(yaml.constructor.ConstructorError):
        cfg.merge_from_file(str(tmp_path / "run.yaml"))
    cfg.merge_from_file(str(tmp_path / "run.yaml"), allow_unsafe=True)
    assert cfg.SEED == 2


@pytest.mark.parametrize("direction", [1, -1])
def test_a_config_dumped_by_one_backend_loads_in_the_other(subset, real, tmp_path, direction):
    writer, reader = (subset, real)[::direction]
    cfg = writer.get("config").get_cfg()
    cfg.SOLVER.STEPS, cfg.MODEL.PIXEL_STD = (3, 4), [2.0, 3.0, 4.0]
    cfg.CUSTOM = writer.get("config").CfgNode({"X": 1.5})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    other = reader.get("config").get_cfg()
    other.CUSTOM = reader.get("config").CfgNode({"X": 0.0})
    other.merge_from_file(str(tmp_path / "config.yaml"))
    # Of nested tuples, yacs keeps only the type of the outer one, on both backends.
    assert {k: type(v) for k, v in leaves(other)} == {k: type(v) for k, v in leaves(cfg)}
    assert yaml.safe_load(other.dump()) == yaml.safe_load(cfg.dump())
