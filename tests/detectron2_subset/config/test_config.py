"""The config tree behaves as Detectron2's, and holds the same keys and values."""

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
    ours, theirs = (dict(leaves(backend.get("config").get_cfg())) for backend in (subset, real))
    assert sorted(ours) == sorted(theirs)
    assert {key: typed(value) for key, value in ours.items()} == {key: typed(value) for key, value in theirs.items()}


def test_get_cfg_gives_independent_copies(backend):
    first, second = (backend.get("config").get_cfg() for _ in range(2))
    first.MODEL.PIXEL_MEAN[0] = -1.0
    first.SOLVER.BASE_LR = 7.0
    assert second.MODEL.PIXEL_MEAN[0] != -1.0
    assert second.SOLVER.BASE_LR != 7.0
    assert not second.is_frozen()


def test_tuples_come_back_as_tuples(backend):
    cfg = backend.get("config").get_cfg()
    assert cfg.INPUT.MIN_SIZE_TRAIN == (800,)
    assert cfg.DATASETS.TRAIN == ()
    assert cfg.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS[1] == (20.0, 20.0, 10.0, 10.0)


def test_a_file_overrides_its_base(backend, tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\nSOLVER:\n  MAX_ITER: 5\n  STEPS: (2,)\nVERSION: 2\n")
    (tmp_path / "run.yaml").write_text("_BASE_: base.yaml\nSOLVER: {MAX_ITER: 7}\n")
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_file(str(tmp_path / "run.yaml"))
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (3, 7, (2,))


def test_lists_from_the_command_line_are_merged_with_their_types(backend):
    cfg = backend.get("config").get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "0.5", "DATASETS.TRAIN", "('a',)", "MODEL.MASK_ON", "True", "SOLVER.WEIGHT_DECAY_BIAS", "1e-3"])
    assert (cfg.SOLVER.BASE_LR, cfg.DATASETS.TRAIN, cfg.MODEL.MASK_ON) == (0.5, ("a",), True)
    assert cfg.SOLVER.WEIGHT_DECAY_BIAS == 1e-3


def test_unknown_keys_are_refused_by_name(backend, tmp_path):
    cfg = backend.get("config").get_cfg()
    (tmp_path / "bad.yaml").write_text("MODEL: {NOPE: 1}\nVERSION: 2\n")
    with pytest.raises(KeyError, match=r"MODEL\.NOPE"):
        cfg.merge_from_file(str(tmp_path / "bad.yaml"))
    with pytest.raises((KeyError, AssertionError), match=r"NOPE"):
        cfg.merge_from_list(["NOPE", "1"])


def test_a_value_of_another_type_is_refused(backend):
    with pytest.raises(ValueError, match="Type mismatch"):
        backend.get("config").get_cfg().merge_from_list(["SOLVER.MAX_ITER", "'many'"])


def test_a_newer_version_is_refused(backend, tmp_path):
    (tmp_path / "new.yaml").write_text("VERSION: 3\n")
    with pytest.raises((ValueError, AssertionError)):
        backend.get("config").get_cfg().merge_from_file(str(tmp_path / "new.yaml"))


def test_the_subset_refuses_old_versions_with_a_remedy(subset, tmp_path):
    (tmp_path / "old.yaml").write_text("VERSION: 1\nMODEL: {WEIGHT: x}\n")
    with pytest.raises(ValueError, match=r"VERSION 1.*VERSION 2.*Detectron2"):
        subset.get("config").get_cfg().merge_from_file(str(tmp_path / "old.yaml"))


def test_a_frozen_config_does_not_change(backend):
    cfg = backend.get("config").get_cfg()
    cfg.freeze()
    with pytest.raises(AttributeError):
        cfg.SEED = 1
    cfg.defrost()
    cfg.SEED = 1


def test_the_subset_runs_no_code_from_yaml_by_default(subset, tmp_path):
    (tmp_path / "run.yaml").write_text("SEED: !!python/object/apply:eval ['1 + 1']\nVERSION: 2\n")
    cfg = subset.get("config").get_cfg()
    with pytest.raises(yaml.constructor.ConstructorError):
        cfg.merge_from_file(str(tmp_path / "run.yaml"))
    cfg.merge_from_file(str(tmp_path / "run.yaml"), allow_unsafe=True)
    assert cfg.SEED == 2


@pytest.mark.parametrize("direction", [0, 1])
def test_a_config_dumped_by_one_backend_loads_in_the_other(subset, real, tmp_path, direction):
    writer, reader = (subset, real)[:: -1 if direction else 1]
    cfg = writer.get("config").get_cfg()
    cfg.SOLVER.STEPS = (3, 4)
    cfg.MODEL.PIXEL_STD = [2.0, 3.0, 4.0]
    cfg.CUSTOM = writer.get("config").CfgNode({"X": 1.5})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    other = reader.get("config").get_cfg()
    other.CUSTOM = reader.get("config").CfgNode({"X": 0.0})
    other.merge_from_file(str(tmp_path / "config.yaml"))
    # yacs gives back the outer tuple of nested ones only, on both backends.
    assert {k: type(v) for k, v in leaves(other)} == {k: type(v) for k, v in leaves(cfg)}
    assert yaml.safe_load(other.dump()) == yaml.safe_load(cfg.dump())
