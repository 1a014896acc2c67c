"""Keys that depend on the machine and the data set are set once, and what cannot work is refused with a remedy."""

import platform
from pathlib import Path

import pytest
import yaml

import detcon_d2.engine.setup
from detcon_d2.engine import load_config, setup_pretraining
from detcon_d2.engine.setup import (
    DETECTOR_NORMS,
    PRETRAINING_NORMS,
    check_pretraining_config,
    has_fast_bf16,
    resolve_norms,
    resolve_precision,
)
from detcon_d2.model_zoo import find_config
from tests.conftest import tiny_opts, write_photos
from tests.engine.finetune.test_setup import CONFIG
from tests.engine.runs import BASE, arguments, output_of, start
from tests.modeling.processes import run_processes


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("DETCON.TEMPERATUR", r"Unknown config key DETCON.TEMPERATUR .*Did you mean DETCON.TEMPERATURE\?"),
        ("DETCON.TEMPERATURE", "Expected KEY VALUE pairs"),
    ],
)
def test_a_wrong_override_is_named(key, message):
    with pytest.raises(ValueError, match=message):
        load_config(BASE, [key, "0.2"] if "Unknown" in message else [key])


@pytest.mark.parametrize("value", ["folder:/a", "(folder:/a,)", "('folder:/a')"])
@pytest.mark.parametrize("key", ["DATASETS.TRAIN", "DATASETS.TEST", "DETCON.MASKS.ROOTS"])
def test_a_list_that_is_one_text_is_shown_as_it_is_written(key, value):
    with pytest.raises(ValueError, match="expected a list of texts") as error:
        load_config(BASE, [key, value])
    written = str(error.value).rpartition(f"{key} ")[2].strip("'")
    assert load_config(BASE, [key, written]) and written == '("folder:/a",)'


def test_an_unknown_key_in_a_file_is_named(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("DETCON:\n  NUM_SAMPLE: 4\n")
    with pytest.raises(ValueError, match=r"DETCON.NUM_SAMPLE .*bad.yaml.*Did you mean DETCON.NUM_SAMPLES\?"):
        load_config(str(path), [])


def test_whole_numbers_are_accepted_as_floats():
    cfg = load_config(BASE, ["DETCON.SOLVER.EPOCHS", "100", "SOLVER.MAX_ITER", "7", "SOLVER.BASE_LR", "1"])
    assert cfg.DETCON.SOLVER.EPOCHS == 100.0 and isinstance(cfg.DETCON.SOLVER.EPOCHS, float)
    assert cfg.SOLVER.MAX_ITER == 7 and isinstance(cfg.SOLVER.MAX_ITER, int) and cfg.SOLVER.BASE_LR == 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.BACKBONE.NAME", "build_vit", "MODEL.BACKBONE.NAME is 'build_vit'; expected one of .*build_detcon_resnet_backbone"),
        ("MODEL.META_ARCHITECTURE", "DetConX", "MODEL.META_ARCHITECTURE is 'DetConX'; expected one of .*DetConB, DetConS"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT is 'BGR'; expected 'RGB'"),
        ("SEED", "-1", "SEED is -1; expected a number >= 0"),
        ("SOLVER.IMS_PER_BATCH", "0", "IMS_PER_BATCH is 0; expected a positive multiple of the 4 processes"),
        ("SOLVER.IMS_PER_BATCH", "10", "IMS_PER_BATCH is 10; expected a positive multiple of the 4 processes"),
        ("DETCON.SOLVER.AMP_DTYPE", "int8", "AMP_DTYPE is 'int8'; expected 'bf16' or 'fp16'"),
        ("DETCON.TEMPERATURE", "0.0", "TEMPERATURE is 0.0; expected a number > 0"),
        ("DETCON.COMPILE", "gcc", "DETCON.COMPILE is 'gcc'; expected '', or one of .*inductor"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "CLIP_GRADIENTS.ENABLED is True; expected False"),
        ("DETCON.LOADER_TIMEOUT", "-1", "LOADER_TIMEOUT is -1; expected seconds, or 0"),
        ("SOLVER.CHECKPOINT_PERIOD", "-1", "CHECKPOINT_PERIOD is -1; expected a number of iterations, or 0"),
        ("SOLVER.BASE_LR", "0.0 DETCON.SOLVER.BASE_LR_256 0.0", "SOLVER.BASE_LR is 0.0; expected a number > 0"),
        ("DETCON.NUM_SAMPLES", "1 SOLVER.IMS_PER_BATCH 1", "NUM_SAMPLES is 1; expected at least 2 with SOLVER.IMS_PER_BATCH 1"),
        ("DETCON.LOG_PERIOD", "0", "LOG_PERIOD is 0; expected a number of iterations >= 1"),
    ],
)
def test_wrong_values_name_key_found_and_expected(key, value, message):
    with pytest.raises(ValueError, match=message):
        check_pretraining_config(load_config(BASE, [key, *value.split()]), world_size=4)


@pytest.mark.parametrize(("device", "gpus"), [("cuda", False), ("cpu", True)])
def test_fp16_is_refused_on_the_cpu(monkeypatch, device, gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus)
    with pytest.raises(ValueError, match="AMP_DTYPE is 'fp16'; expected 'bf16' on the CPU"):
        check_pretraining_config(load_config(BASE, ["DETCON.SOLVER.AMP_DTYPE", "fp16", "MODEL.DEVICE", device]), world_size=1)


@pytest.mark.parametrize(
    ("config", "norms", "keys"),
    [
        (BASE, PRETRAINING_NORMS, list(PRETRAINING_NORMS)),
        (CONFIG, DETECTOR_NORMS, [key for key in DETECTOR_NORMS if "SEM_SEG" not in key]),
        (find_config("PascalVOC-SemanticSegmentation/Base-FCN.yaml"), DETECTOR_NORMS, ["MODEL.RESNETS.NORM", "MODEL.SEM_SEG_HEAD.NORM"]),
    ],
    ids=["pretraining", "detector", "segmentor"],
)
def test_syncbn_is_replaced_where_it_does_not_work(config, norms, keys):
    cpu = [load_config(config, ["MODEL.DEVICE", "cpu"]) for _ in range(2)]
    assert resolve_norms(cpu[0], 1, norms) == [f"{key} SyncBN -> BN (one process)." for key in keys]
    # Boxes differ in number from process to process.
    expected = {key: "naiveSyncBN_N" if "ROI_" in key else "naiveSyncBN" for key in keys}
    assert resolve_norms(cpu[1], 2, norms) == [
        f"{key} SyncBN -> {new} (torch's SyncBatchNorm needs CUDA)." for key, new in expected.items()
    ]
    gpus = load_config(config, [])
    assert resolve_norms(gpus, 2, norms) == [] and gpus.MODEL.RESNETS.NORM == "SyncBN"


def test_setup_resolves_schedule_probe_and_device_and_writes_the_config(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    opts = tiny_opts(photos, tmp_path, DETCON__SOLVER__EPOCHS=3.0, DETCON__SOLVER__WARMUP_EPOCHS=1.0, MODEL__DEVICE="cuda")
    cfg, records = setup_pretraining(arguments(opts))
    assert len(records) == 12 and cfg.DETCON.PROBE.NUM_CLASSES == 2 and cfg.is_frozen()
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.MODEL.DEVICE) == (9, 3, "cpu")
    assert cfg.SOLVER.BASE_LR == pytest.approx(0.3 * 4 / 256)
    assert yaml.safe_load(load_config(str(tmp_path / "config.yaml"), []).dump()) == yaml.safe_load(cfg.dump())
    log = (tmp_path / "log.txt").read_text()
    for line in ("Detectron2 backend:", "Online linear probe over 2 classes.", "No CUDA here: MODEL.DEVICE cuda -> cpu."):
        assert line in log


def test_without_labels_there_is_no_probe(tmp_path):
    photos = write_photos(tmp_path / "in", 4)
    for path in list(photos.rglob("*.png")):
        path.rename(photos / path.name)
    cfg, _ = setup_pretraining(arguments(tiny_opts(photos, tmp_path / "out")))
    assert not cfg.DETCON.PROBE.ENABLED


@pytest.mark.parametrize(
    ("device", "dtype", "fast", "kept"),
    [
        ("cpu", "bf16", False, False),
        ("cpu", "bf16", True, True),
        ("cuda", "bf16", False, False),
        ("cuda", "bf16", True, True),
        ("cuda", "fp16", False, True),
    ],
)
def test_bf16_is_switched_off_only_where_there_are_no_instructions_for_it(device, dtype, fast, kept, monkeypatch):
    monkeypatch.setattr(detcon_d2.engine.setup, "has_fast_bf16", lambda: fast and device == "cpu")
    # Emulation, which torch counts as support by default, is slow.
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: fast or including_emulation)
    cfg = load_config(BASE, ["MODEL.DEVICE", device, "DETCON.SOLVER.AMP_DTYPE", dtype])
    lines = resolve_precision(cfg)
    assert cfg.SOLVER.AMP.ENABLED is kept and ["no instructions for bf16" in line for line in lines] == [True] * (not kept)
    assert resolve_precision(cfg) == []


@pytest.mark.skipif(platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists(), reason="reads the flags of an x86 CPU on Linux")
def test_cpus_without_avx512_have_no_fast_bf16():
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512bw" not in flags:
        assert not has_fast_bf16()
    if "amx_bf16" in flags or "avx512_bf16" in flags:
        assert has_fast_bf16()


def set_up(rank: int, photos: str, output: str) -> dict[str, str]:
    try:
        setup_pretraining(arguments(tiny_opts(Path(photos).with_name(f"photos{rank}"), Path(output), MODEL__RESNETS__NORM="BN")))
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


@pytest.mark.parametrize("count", [0, 4])
def test_data_that_differs_between_processes_stops_all_of_them(tmp_path, count):
    for rank, number in enumerate((3, count)):
        (tmp_path / f"photos{rank}").mkdir()
        write_photos(tmp_path / f"photos{rank}", number)
    message = "The processes see different training images" if count else "photos1"
    for found in run_processes(set_up, 2, tmp_path, str(tmp_path / "photos"), str(tmp_path / "out")):
        assert message in found["error"]


def test_a_users_mistake_is_one_line_without_traceback(tmp_path):
    output = output_of(start(tiny_opts(tmp_path / "nowhere", tmp_path / "out")), code=2)
    assert "train_net.py: " in output and "Traceback" not in output, output
