"""What only the peer methods can get wrong: shuffled keys, queues, centres, schedules, coordinates. The losses have tests of their own."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from detcon_d2 import d2
from detcon_d2.engine import load_config, setup_pretraining
from detcon_d2.losses import detcon_loss, nt_xent_loss, sinkhorn_codes
from detcon_d2.methods import pretraining_class
from detcon_d2.model_zoo import get_config
from detcon_d2.modeling.ema import ema_momentum
from detcon_d2.solver import resolve_schedule
from tests.engine.runs import BASE, arguments, final_state, metrics, pretrainer, run
from tests.methods.test_contract import HELD, batch_of, build, options
from tests.modeling.processes import run_processes


@pytest.mark.parametrize("draws", [1, 16])
def test_simclr_is_detcon_s_with_one_region_for_every_image(draws):
    generator = torch.Generator().manual_seed(0)
    z1, z2 = (torch.randn(6, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.zeros(6, draws, dtype=torch.int64)
    rows = [z[:, None].expand(-1, draws, -1) for z in (z1, z2)]
    found = detcon_loss(*rows, *rows, ids, ids, temperature=0.1)
    # methods.md, section 0, "Loss scale": 16 draws of one region add 2 ln 16 to the loss and divide it by 16.
    expected = (nt_xent_loss(z1, z2, temperature=0.1) + 2 * math.log(draws)) / draws
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_moco_shuffles_the_keys_and_returns_them_in_order(photos):
    model, batch = batch_of("MoCo", photos, 4, DETCON__MOCO__BN_GROUP=2)
    with d2.EventStorage():
        view2 = model.images_of(batch)[1]
    for sample, draw in zip(batch, (0.7, 0.1, 0.9, 0.4)):
        sample["shuffle"] = draw
    order = [1, 3, 0, 2]
    with torch.no_grad():
        halves = [model.target["encoder"](view2[order[i : i + 2]])["res5"] for i in (0, 2)]
    expected = torch.empty_like(torch.cat(halves))
    expected[order] = torch.cat(halves)
    torch.testing.assert_close(model.encode_keys(view2, batch), expected)


def keys_of_a_share(rank: int, photos: str) -> dict[str, torch.Tensor]:
    model, batch = batch_of("MoCo", Path(photos), 4, DETCON__MOCO__BN_GROUP=0)
    with d2.EventStorage():
        return {"keys": model.encode_keys(model.images_of(batch)[1], batch)}


def test_moco_shuffles_over_all_processes(photos, tmp_path):
    found = torch.cat([share["keys"] for share in run_processes(keys_of_a_share, 2, tmp_path, str(photos))])
    # Two processes with one group each are one process with two groups.
    model, batch = batch_of("MoCo", photos, 4, DETCON__MOCO__BN_GROUP=2)
    with d2.EventStorage():
        expected = model.encode_keys(model.images_of(batch)[1], batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_moco_never_uses_a_key_as_a_negative_of_its_own_step(photos, tmp_path):
    trainer = pretrainer(options("MoCo", photos, tmp_path))
    queue = trainer.network.memory["queue"]
    before = queue.features.clone()
    trainer.train()
    # 4 steps of 4 keys in a queue of 32.
    assert int(queue.pointer) == 16 and torch.equal(queue.features[:, 16:], before[:, 16:])
    assert not torch.isclose(queue.features[:, :16], before[:, :16]).all(0).any()


@pytest.mark.parametrize(
    ("method", "key", "value", "message"),
    [
        ("MoCo", "DETCON__MOCO__QUEUE", 30, "DETCON.MOCO.QUEUE is 30; expected a positive multiple of SOLVER.IMS_PER_BATCH 4"),
        ("MoCo", "DETCON__MICRO_BATCH", 2, "DETCON.MICRO_BATCH is 2; expected 0"),
        ("SwAV", "DETCON__SWAV__QUEUE", 6, "DETCON.SWAV.QUEUE is 6; expected 0 or a multiple of SOLVER.IMS_PER_BATCH 4"),
        ("BYOL", "DETCON__EMA__INIT", "random", "DETCON.EMA.INIT is 'random'; expected 'copy'"),
        ("DINO", "DETCON__DINO__TEACHER_TEMPERATURE", 0.0, "DETCON.DINO.TEACHER_TEMPERATURE is 0.0; expected a number > 0"),
        ("DINO", "DETCON__VIEWS__LOCAL__COUNT", -1, "DETCON.VIEWS.LOCAL.COUNT is -1"),
        ("PixPro", "DETCON__PIXPRO__TRANSFORM_LAYERS", 3, "DETCON.PIXPRO.TRANSFORM_LAYERS is 3; expected 0, 1 or 2"),
        ("DenseCL", "DETCON__DENSECL__WEIGHT", 1.5, "DETCON.DENSECL.WEIGHT is 1.5; expected a weight in"),
        ("SimCLR", "DETCON__SIMCLR__TEMPERATURE", 0.0, "DETCON.SIMCLR.TEMPERATURE is 0.0; expected a number > 0"),
        ("DenseCL", "DETCON__DENSECL__START_ITER", -1, "DETCON.DENSECL.START_ITER is -1; expected an iteration >= 0"),
        (
            "SwAV",
            "DETCON__VIEWS__LOCAL__SIZE",
            31,
            "DETCON.VIEWS.LOCAL.SIZE is 31; expected at least 32 pixels, one cell of res5. Raise it",
        ),
        ("PixPro", "DETCON__VIEWS__SIZE", 16, "DETCON.VIEWS.SIZE is 16; expected at least 32 pixels"),
        ("DetConB", "DETCON__SAME_VIEW", "view1", "DETCON.SAME_VIEW is 'view1'; expected 'both' or 'view1_only'"),
        ("DetConS", "DETCON__SAME_VIEW", "view1_only", "DETCON.SAME_VIEW is 'view1_only'; expected 'both' with DETCON.TWO_VIEWS True"),
        ("BYOL", "DETCON__EMA__SCHEDULE", "linear", "DETCON.EMA.SCHEDULE is 'linear'; expected 'cosine' or 'constant'"),
    ],
)
def test_a_key_out_of_range_is_refused(method, key, value, message, photos, tmp_path):
    with pytest.raises(ValueError, match=message):
        setup_pretraining(arguments(options(method, photos, tmp_path, **{key: value})))
        build(method, photos, **{key: value})


@pytest.mark.parametrize(
    ("method", "key", "value", "message"),
    [
        # The data set has 12 images.
        ("MoCo", "DETCON__MOCO__QUEUE", 4, "DETCON.MOCO.QUEUE is 4 with 12 training images; expected at most a quarter of them. Lower it"),
        ("DenseCL", "DETCON__MOCO__QUEUE", 8, "DETCON.MOCO.QUEUE is 8 with 12 training images"),
        ("SwAV", "DETCON__SWAV__QUEUE", 4, "DETCON.SWAV.QUEUE is 4 with 12 training images; expected at most a quarter of them. Lower it"),
        ("SwAV", "DETCON__SWAV__PROTOTYPES", 13, "DETCON.SWAV.PROTOTYPES is 13; expected at most 12, the images of a batch"),
    ],
)
def test_a_run_that_will_learn_little_is_warned_about_and_others_are_not(method, key, value, message, photos, tmp_path):
    calm = {"DETCON__MOCO__QUEUE": 0, "DETCON__SWAV__QUEUE": 0, "DETCON__SWAV__PROTOTYPES": 4}
    cfg = load_config(BASE, options(method, photos, tmp_path, **calm))
    assert pretraining_class(method).doubts(cfg, 12) == []
    extra = {"DETCON__SWAV__QUEUE": 8} if "PROTOTYPES" in key else {}
    setup_pretraining(arguments(options(method, photos, tmp_path, **calm | extra | {key: value})))
    assert message in (tmp_path / "log.txt").read_text()


def test_densecl_global_projector_starts_as_the_authors_linear_layers(photos):
    _, model, _, _ = build("DenseCL", photos, DETCON__PROJECTOR__HIDDEN_DIM=256)
    for layer in model.heads["projector"].layers:
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.1) and not layer.bias.any()
    assert model.heads["dense_projector"].layers[0].bias.any()


def test_pixpro_target_moves_with_the_momentum_of_the_next_step(photos, tmp_path):
    # The authors move it before a step, with the momentum of that step.
    trainer = pretrainer(options("PixPro", photos, tmp_path, SOLVER__MAX_ITER=3, DETCON__LOG_PERIOD=1, DETCON__EMA__MOMENTUM=0.9))
    trainer.train()
    assert [row["ema_momentum"] for row in metrics(tmp_path)] == pytest.approx([ema_momentum(step, 3, 0.9) for step in (1, 2, 3)])


def test_supervised_needs_labels(photos, tmp_path):
    with pytest.raises(ValueError, match="Supervised found no class labels; expected a data set with them"):
        build("Supervised", photos, DETCON__PROBE__NUM_CLASSES=0)


def codes_of_a_share(rank: int, photos: str) -> dict[str, torch.Tensor]:
    model, batch = batch_of("SwAV", Path(photos), 4, **HELD)
    fill_queue(model)
    with d2.EventStorage():
        return {"codes": model.codes(model.embed(batch)["scores"][:, 0], 0)}


def fill_queue(model: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    features = F.normalize(torch.randn(2, 8, 16, generator=generator), dim=2)
    model.memory["queue"].features.copy_(features)
    model.codes_use_queue = True
    return features


def test_swav_codes_balance_the_batch_together_with_the_queue(photos, tmp_path):
    model, batch = batch_of("SwAV", photos, 4, **HELD)
    with d2.EventStorage():
        scores = model.embed(batch)["scores"][:, 0].detach()
    alone = model.codes(scores, 0)
    queued = model.heads["prototypes"](fill_queue(model)[0])
    expected = sinkhorn_codes(torch.cat([scores, queued]))[:4]
    torch.testing.assert_close(model.codes(scores, 0), expected)
    assert not torch.allclose(alone, expected)
    shares = run_processes(codes_of_a_share, 2, tmp_path, str(photos))
    torch.testing.assert_close(torch.cat([share["codes"] for share in shares]), expected, rtol=1e-4, atol=1e-5)


def test_swav_fills_its_queue_newest_first_and_then_uses_it(photos, tmp_path):
    trainer = pretrainer(options("SwAV", photos, tmp_path, SOLVER__MAX_ITER=3))
    network, queue = trainer.network, trainer.network.memory["queue"]
    seen = []
    push = queue.push
    queue.push = lambda new: (seen.append((new.clone(), network.codes_use_queue)), push(new))
    trainer.train()
    assert [used for _, used in seen] == [False, False, True]
    torch.testing.assert_close(queue.features, torch.cat([seen[2][0], seen[1][0]], dim=1))
    assert torch.allclose(network.heads["prototypes"].weight.norm(dim=1), torch.ones(8), atol=0.1)


@pytest.mark.parametrize(
    ("method", "name", "frozen"),
    [
        ("SwAV", "heads.prototypes.weight", {"DETCON__SWAV__FREEZE_ITERS": 3}),
        ("DINO", "heads.head.last.weight", {"DETCON__DINO__FREEZE_EPOCHS": 1.0}),
    ],
)
def test_the_last_layer_is_frozen_at_the_start_even_for_weight_decay(method, name, frozen, photos, tmp_path):
    # An epoch has 3 iterations. SwAV keeps the prototypes' length, so their directions are compared.
    extra = frozen | {"SOLVER__MAX_ITER": 3, "SOLVER__WEIGHT_DECAY": 0.1, "DETCON__SOLVER__OPTIMIZER": "SGD", "SOLVER__WARMUP_ITERS": 0}
    trainer = pretrainer(options(method, photos, tmp_path / "frozen", **extra))
    before = F.normalize(trainer.network.state_dict()[name], dim=1)
    trainer.train()
    torch.testing.assert_close(F.normalize(trainer.network.state_dict()[name], dim=1), before)
    run(arguments(options(method, photos, tmp_path / "longer", **extra | {"SOLVER__MAX_ITER": 4})))
    assert not torch.allclose(F.normalize(final_state(tmp_path / "longer")["model"][name], dim=1), before, atol=1e-6)


def test_dino_teacher_temperature_is_linear_over_whole_epochs(photos):
    keys = {"WARMUP_TEMPERATURE": 0.04, "TEACHER_TEMPERATURE": 0.07, "WARMUP_EPOCHS": 4}
    _, model, _, _ = build("DINO", photos, **{f"DETCON__DINO__{key}": value for key, value in keys.items()})
    found = [model.temperature_at(epoch) for epoch in (0, 0.9, 1, 2, 3.5, 10)]
    assert found == pytest.approx([0.04, 0.04, 0.05, 0.06, 0.07, 0.07])


def test_dino_centre_moves_after_the_step(photos):
    model, batch = batch_of("DINO", photos, 4)
    with d2.EventStorage():
        model(batch)
        assert not model.memory["center"].mean.any()
        model.end_step()
        teacher = model.embed(batch)["teacher"]
    torch.testing.assert_close(model.memory["center"].mean, 0.1 * teacher.mean((0, 1)), rtol=1e-4, atol=1e-6)


def test_pixpro_boxes_are_those_of_the_crop_and_turn_with_a_flip(photos):
    model, batch = batch_of("PixPro", photos, 2)
    batch[0] |= {"width": 101, "height": 51}
    batch[0]["views"][0] |= {"box": torch.tensor([10.0, 5.0, 61.0, 51.0]), "flip": False}
    batch[1] |= {"width": 101, "height": 51}
    batch[1]["views"][0] |= {"box": torch.tensor([10.0, 5.0, 61.0, 51.0]), "flip": True}
    expected = torch.tensor([[0.1, 0.1, 0.6, 1.0], [0.6, 0.1, 0.1, 1.0]])
    torch.testing.assert_close(model._boxes(batch, 0), expected)


def test_pixpros_instance_branch_compares_directions_and_does_not_grow_with_its_outputs(photos):
    model, batch = batch_of("PixPro", photos, 4, **HELD)

    def loss() -> torch.Tensor:
        with d2.EventStorage(), torch.no_grad():
            return model.criterion(model.embed(batch))["loss_instance"]

    before = loss()
    for heads in (model.heads["instance_predictor"], model.target["instance_projector"]):
        last = [module for module in heads.modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)][-1]
        for parameter in last.parameters():
            parameter.data *= 7
    assert -4 <= before <= 4
    torch.testing.assert_close(loss(), before, rtol=1e-4, atol=1e-5)


def test_multi_crop_makes_small_crops_with_their_own_area_and_colours(photos):
    extra = {
        "DETCON__VIEWS__LOCAL__COUNT": 3,
        "DETCON__AUG__BLUR_PROB": "(0.0, 0.0, 1.0)",
        "DETCON__VIEWS__LOCAL__CROP_AREA": "(0.05, 0.1)",
    }
    _, _, samples, _ = build("SwAV", photos, **extra)
    assert [view.size for view in samples.geometry] == [64, 64, 32, 32, 32]
    for position in range(20):
        boxes = [transform.box for transform in samples.sample_geometry(position, 100, 100)]
        assert all((box[2] - box[0]) * (box[3] - box[1]) <= 1100 for box in boxes[2:])
    assert [augmentation.blur_prob for augmentation in samples.photometric] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("name", "warm_up", "attempts", "held"),
    [
        ("Supervised/supervised_R_50_in1k_90ep", 0, 10, False),
        ("SimCLR/simclr_R_50_in1k_1000ep", 10, 100, False),
        ("BYOL/byol_R_50_in1k_1000ep", 10, 1, False),
        ("MoCo/moco_v1_R_50_in1k_200ep", 0, 10, False),
        ("MoCo/moco_v2_R_50_in1k_800ep", 0, 10, True),
        ("SwAV/swav_R_50_in1k_800ep", 10, 10, False),
        ("SwAV/swav_R_50_in1k_400ep_bs256", 0, 10, False),
        ("DINO/dino_R_50_in1k_100ep", 10, 10, False),
        ("PixPro/pixpro_R_50_in1k_400ep", 5, 10, False),
        ("DenseCL/densecl_R_50_coco_800ep", 0, 10, True),
    ],
)
def test_published_runs_have_their_authors_warm_up_and_crops(name, warm_up, attempts, held):
    cfg = get_config(f"{name}.yaml")
    resolve_schedule(cfg, 1281167)
    # Without a value of ours, Detectron2's 1000 iterations would be the warm-up.
    assert cfg.SOLVER.WARMUP_ITERS == warm_up * 1281167 // cfg.SOLVER.IMS_PER_BATCH
    assert (cfg.DETCON.VIEWS.CROP_ATTEMPTS, cfg.DETCON.SOLVER.LR_PER_EPOCH) == (attempts, held)
    geometry, _ = pretraining_class(cfg.MODEL.META_ARCHITECTURE).Samples.augmentations(cfg)
    assert {view.crop_attempts for view in geometry} == {attempts}
