"""MultiTask is its tasks: samples, losses and gradients of each are those that the task alone has."""

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from tests.methods.test_contract import HELD, batch_of, build, gradients

TWO = {"DETCON__MULTITASK__TASKS": '("Rotation", "RelativePosition")'}


def alone(name: str, photos: object) -> tuple[torch.nn.Module, list[dict]]:
    return batch_of(name, photos, 4, **HELD)


def of_tasks(photos: object, names: str, **overrides: object) -> tuple[torch.nn.Module, list[dict]]:
    return batch_of("MultiTask", photos, 4, **HELD | {"DETCON__MULTITASK__TASKS": names} | overrides)


def test_each_tasks_samples_are_those_of_the_task_alone(photos):
    _, _, samples, _ = build("MultiTask", photos, **TWO)
    image = np.random.default_rng(0).integers(0, 256, (150, 150, 3)).astype(np.uint8)
    found = samples(image, None, 5)
    for name in ("Rotation", "RelativePosition"):
        expected = build(name, photos)[2](image, None, 5)
        first, end = found[f"{name}/views"]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found["views"][first:end], expected.pop("views"), strict=True))
        assert all(torch.equal(found[f"{name}/{key}"], value) for key, value in expected.items())
    assert len(samples.sample_geometry(5, 150, 150)) == len(found["views"])


def with_weights_of(model: torch.nn.Module, single: torch.nn.Module, name: str) -> None:
    """The encoder and the heads of a task, into the model of several."""
    state = {key: value for key, value in single.state_dict().items() if key.startswith("encoder.")}
    state |= {f"heads.{name}.{key.removeprefix('heads.')}": value for key, value in single.state_dict().items() if key.startswith("heads.")}
    assert not model.load_state_dict(state, strict=False).unexpected_keys


def test_one_task_is_that_task_to_the_last_bit(photos):
    single, batch = alone("Rotation", photos)
    model, own = of_tasks(photos, '("Rotation",)')
    with_weights_of(model, single, "Rotation")
    losses = []
    for one, samples in ((single, batch), (model, own)):
        with d2.EventStorage():
            losses.append(one(samples)["loss_rotation"])
        losses[-1].backward()
    assert torch.equal(*losses)
    expected, found = gradients(single), gradients(model)
    assert all(torch.equal(found[name.replace("heads.", "heads.Rotation.")], value) for name, value in expected.items())


def test_the_gradient_is_the_weighted_sum(photos):
    names = ("Rotation", "RelativePosition")
    model, batch = of_tasks(photos, str(names), DETCON__MULTITASK__WEIGHTS="(2.0, 0.5)")
    singles = {name: alone(name, photos) for name in names}
    encoder = singles["Rotation"][0].encoder.state_dict()
    for name, (single, _) in singles.items():
        single.encoder.load_state_dict(encoder)
        with_weights_of(model, single, name)
    with d2.EventStorage():
        sum(model(batch).values()).backward()
        for single, samples in singles.values():
            sum(loss for key, loss in single(samples).items() if key != "loss_probe").backward()
    found = gradients(model.encoder)
    for name, gradient in found.items():
        parts = [gradients(single.encoder)[name] for single, _ in singles.values()]
        torch.testing.assert_close(gradient, 2 * parts[0] + 0.5 * parts[1], rtol=1e-3, atol=1e-6)


def test_only_one_encoder_is_saved_and_the_tasks_follow_the_model(photos):
    model, _ = of_tasks(photos, '("Rotation", "RelativePosition")')
    assert all(task.encoder is model.encoder for task in model.tasks.values())
    assert not any("encoder" in name for name in model.state_dict() if not name.startswith("encoder."))
    model.double().eval()
    assert all(task.pixel_mean.dtype == torch.float64 and not task.training for task in model.tasks.values())


@pytest.mark.parametrize("names", ['("Rotation", "Rotation")', '("MultiTask",)', '("DetConB",)', '("DeepCluster",)', '("Nothing",)', "()"])
def test_tasks_that_cannot_be_combined_are_refused(names, photos):
    cfg, model, _, _ = build("MultiTask", photos, **TWO)
    cfg.merge_from_list(["DETCON.MULTITASK.TASKS", names])
    assert [row[1] for row in type(model).check_config(cfg) if not row[0]] == ["DETCON.MULTITASK.TASKS"]


def test_methods_with_a_target_network_are_refused(photos):
    with pytest.raises(ValueError, match="has BYOL, which has target; expected methods with heads alone"):
        build("MultiTask", photos, DETCON__MULTITASK__TASKS='("BYOL",)')
