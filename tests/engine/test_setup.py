"""What differs by machine and data set is settled once, and what cannot work is refused with a remedy."""

import argparse
import importlib
import platform
from pathlib import Path

import pytest
import torch

from detcon_d2.engine import load_config, setup
from detcon_d2.engine.setup import check_pretraining_config, has_fast_bf16, resolve_norms, resolve_precision
from tests.conftest import REPO, tiny_opts, write_photos

engine_setup = importlib.import_module("detcon_d2.engine.setup")  # the package exports a function of that name
BASE = str(REPO / "configs" / "Base-DetCon.yaml")


def arguments(opts: list[str]) -> argparse.Namespace:
    return argparse.Namespace(config_file=BASE, opts=opts, resume=False, eval_only=False, num_gpus=1)


def test_unknown_key_names_the_nearest_one():
    with pytest.raises(ValueError, match=r"Unknown config key DETCON.TEMPERATUR .*Did you mean DETCON.TEMPERATURE\?"):
        load_config(BASE, ["DETCON.TEMPERATUR", "0.2"])


def test_unknown_key_in_a_file_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("DETCON:\n  NUM_SAMPLE: 4\n")
    with pytest.raises(ValueError, match=r"DETCON.NUM_SAMPLE .*bad.yaml.*Did you mean DETCON.NUM_SAMPLES\?"):
        load_config(str(path), [])


def test_whole_numbers_are_taken_for_floats():
    cfg = load_config(BASE, ["DETCON.SOLVER.EPOCHS", "100", "SOLVER.MAX_ITER", "7", "SOLVER.BASE_LR", "1"])
    assert cfg.DETCON.SOLVER.EPOCHS == 100.0 and isinstance(cfg.DETCON.SOLVER.EPOCHS, float)
    assert cfg.SOLVER.MAX_ITER == 7 and isinstance(cfg.SOLVER.MAX_ITER, int) and cfg.SOLVER.BASE_LR == 1.0


def test_override_without_value_is_refused():
    with pytest.raises(ValueError, match="Expected KEY VALUE pairs"):
        load_config(BASE, ["DETCON.TEMPERATURE"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.BACKBONE.NAME", "build_vit", "MODEL.BACKBONE.NAME is 'build_vit'; expected one of .*build_detcon_resnet_backbone"),
        ("MODEL.META_ARCHITECTURE", "DetConX", "MODEL.META_ARCHITECTURE is 'DetConX'; expected 'DetConB' or 'DetConS'"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is 'BGR'; expected 'RGB'"),
        ("SEED", "-1", "SEED is -1; expected a number >= 0"),
        ("SOLVER.IMS_PER_BATCH", "0", "IMS_PER_BATCH is 0; expected a positive multiple of the 1 processes"),
        ("DETCON.SOLVER.AMP_DTYPE", "int8", "AMP_DTYPE is 'int8'; expected 'bf16' or 'fp16'"),
        ("DETCON.TEMPERATURE", "0.0", "TEMPERATURE is 0.0; expected a number > 0"),
        ("DETCON.COMPILE", "gcc", "DETCON.COMPILE is 'gcc'; expected '', or one of .*inductor"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "CLIP_GRADIENTS.ENABLED is True; expected False"),
    ],
)
def test_wrong_values_name_key_found_and_expected(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_pretraining_config(load_config(BASE, [key, value]), world_size=1)


def test_batch_must_divide_over_processes():
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 10; expected a positive multiple of the 4 processes"):
        check_pretraining_config(load_config(BASE, ["SOLVER.IMS_PER_BATCH", "10"]), world_size=4)


def test_syncbn_becomes_what_the_world_allows():
    cfg = load_config(BASE, ["MODEL.DEVICE", "cpu"])
    assert resolve_norms(cfg, 1) == [f"{key} SyncBN -> BN (one process)." for key in ("MODEL.RESNETS.NORM", "DETCON.HEAD_NORM")]
    cfg = load_config(BASE, ["MODEL.DEVICE", "cpu"])
    resolve_norms(cfg, 2)
    assert cfg.MODEL.RESNETS.NORM == cfg.DETCON.HEAD_NORM == "naiveSyncBN"
    cfg = load_config(BASE, [])
    assert resolve_norms(cfg, 2) == [] and cfg.MODEL.RESNETS.NORM == "SyncBN"


def test_setup_resolves_schedule_probe_and_device_and_writes_the_config(photos, tmp_path):
    opts = tiny_opts(photos, tmp_path, DETCON__SOLVER__EPOCHS=3.0, DETCON__SOLVER__WARMUP_EPOCHS=1.0, SOLVER__IMS_PER_BATCH=4)
    cfg, records = setup(arguments(opts))
    assert len(records) == 12 and cfg.DETCON.PROBE.NUM_CLASSES == 2
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (9, 3)
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.3 * 4 / 256)
    written = load_config(str(tmp_path / "config.yaml"), [])
    assert written.SOLVER.MAX_ITER == 9
    log = (tmp_path / "log.txt").read_text()
    assert "Detectron2 backend:" in log and "Online linear probe over 2 classes." in log


def test_no_labels_no_probe(tmp_path):
    photos = write_photos(tmp_path / "in", 4)
    for path in list(photos.rglob("*.png")):
        path.rename(photos / path.name)
    cfg, _ = setup(arguments(tiny_opts(photos, tmp_path / "out")))
    assert not cfg.DETCON.PROBE.ENABLED


def test_no_cuda_falls_back_to_the_cpu_with_a_line(photos, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("CUDA is available here: there is nothing to fall back from")
    cfg, _ = setup(arguments(tiny_opts(photos, tmp_path, MODEL__DEVICE="cuda")))
    assert cfg.MODEL.DEVICE == "cpu"
    assert "No CUDA here: MODEL.DEVICE cuda -> cpu." in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("device", "dtype", "fast", "kept"),
    [("cpu", "bf16", False, False), ("cpu", "bf16", True, True), ("cuda", "bf16", False, True), ("cuda", "fp16", False, True)],
)
def test_bf16_is_left_out_only_where_the_cpu_has_no_instructions_for_it(device, dtype, fast, kept, monkeypatch):
    monkeypatch.setattr(engine_setup, "has_fast_bf16", lambda: fast)
    cfg = load_config(BASE, ["MODEL.DEVICE", device, "DETCON.SOLVER.AMP_DTYPE", dtype])
    lines = resolve_precision(cfg)
    assert cfg.SOLVER.AMP.ENABLED is kept and len(lines) == (not kept)
    assert resolve_precision(cfg) == []


def test_pretraining_and_fine_tuning_say_when_they_leave_bf16_out(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_setup, "has_fast_bf16", lambda: False)
    cfg, _ = setup(arguments(tiny_opts(photos, tmp_path, MODEL__DEVICE="cpu", SOLVER__AMP__ENABLED=True)))
    assert not cfg.SOLVER.AMP.ENABLED
    assert "This CPU has no instructions for bf16" in (tmp_path / "log.txt").read_text()


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads the flags of an x86 CPU on Linux")
def test_cpus_without_avx512_have_no_fast_bf16():
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512bw" not in flags:
        assert not has_fast_bf16()
    if "amx_bf16" in flags or "avx512_bf16" in flags:
        assert has_fast_bf16()


def test_empty_folder_and_folder_without_images_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        setup(arguments(tiny_opts(tmp_path / "empty", tmp_path / "out")))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "readme.txt").write_text("no image")
    with pytest.raises(ValueError, match="text"):
        setup(arguments(tiny_opts(tmp_path / "text", tmp_path / "out")))
