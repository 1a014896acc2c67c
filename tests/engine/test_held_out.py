"""Metrics on held-out images are those of the method, and looking at them changes nothing."""

import copy

import pytest
import torch

from detcon_d2 import d2
from detcon_d2.data import build_pretraining_loader
from detcon_d2.engine.held_out import HeldOutHook
from tests.conftest import write_photos
from tests.engine.runs import arguments, assert_same_state, final_state, metrics, pretrainer, run
from tests.methods.test_contract import options

EVERY_SECOND = {"SOLVER__MAX_ITER": 4, "SOLVER__WARMUP_ITERS": 0, "DETCON__LOG_PERIOD": 1, "DETCON__HELD_OUT__PERIOD": 2}


def held_out(photos, output, method="Rotation", **overrides):
    return options(method, photos, output, **EVERY_SECOND | {"DETCON__HELD_OUT__DATASETS": f"('folder:{photos}',)"} | overrides)


def test_a_run_is_the_same_with_and_without_held_out_images(photos, tmp_path):
    run(arguments(held_out(photos, tmp_path / "with")))
    run(arguments(held_out(photos, tmp_path / "without", DETCON__HELD_OUT__DATASETS="()")))
    assert_same_state(final_state(tmp_path / "with"), final_state(tmp_path / "without"))
    written = [row for row in metrics(tmp_path / "with") if "held_out/accuracy" in row]
    assert {row["iteration"] for row in written} >= {1, 3} and written[-1]["held_out/chance"] == 0.25
    assert not any("held_out/accuracy" in row for row in metrics(tmp_path / "without"))


def test_the_values_are_the_methods_metrics_with_running_statistics(photos, tmp_path):
    trainer = pretrainer(held_out(photos, tmp_path))
    (hook,) = [one for one in trainer._hooks if isinstance(one, HeldOutHook)]
    before = copy.deepcopy(trainer.network.state_dict())
    state = torch.get_rng_state()
    found = hook.evaluate()
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(trainer.network.state_dict(), before, rtol=0, atol=0)
    assert all(module.training for module in trainer.network.modules())
    model = copy.deepcopy(trainer.network)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            module.eval()
    loader = iter(build_pretraining_loader(hook._cfg, hook._records, model.sample_maker(hook._cfg)))
    with torch.no_grad(), d2.EventStorage():
        rows = [model.metrics(model.embed(next(loader))) for _ in range(hook._batches)]
    assert found == pytest.approx({name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}, rel=1e-5)


def test_held_out_images_have_label_maps_of_their_own(photos, tmp_path, run_tool):
    others = write_photos(tmp_path / "others", count=4, seed=5)
    roots = [tmp_path / "masks", tmp_path / "other_masks"]
    for folder, root in zip((photos, others), roots):
        assert run_tool("generate_masks.py", f"folder:{folder}", root, "--generator", "grid").returncode == 0
    keys = {"DETCON__MASKS__SOURCE": "files", "DETCON__MASKS__ROOTS": repr((str(roots[0]),))}
    keys |= {"DETCON__HELD_OUT__DATASETS": f"('folder:{others}',)"}
    run(arguments(held_out(photos, tmp_path / "run", "DetConS", **keys, DETCON__HELD_OUT__ROOTS=repr((str(roots[1]),)))))
    written = [row for row in metrics(tmp_path / "run") if "held_out/regions_per_view" in row]
    assert written and all(row["held_out/regions_per_view"] > 0 for row in written)
    with pytest.raises(ValueError, match=r"DETCON\.HELD_OUT\.ROOTS has 0 folders \(\), .* 1 data sets; expected one folder"):
        pretrainer(held_out(photos, tmp_path, "DetConS", **keys))
    with pytest.raises(ValueError, match=r"DETCON\.HELD_OUT\.ROOTS names '/none', which does not exist"):
        pretrainer(held_out(photos, tmp_path, "DetConS", **keys, DETCON__HELD_OUT__ROOTS="('/none',)"))


def test_too_few_images_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match=r"DETCON\.HELD_OUT has 1 images .* expected at least a batch"):
        pretrainer(held_out(photos, tmp_path, DETCON__HELD_OUT__IMAGES=1))
