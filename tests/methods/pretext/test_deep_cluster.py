"""DeepCluster: rounds, their files and figures, and two processes; what it clusters with is tested in tests/modeling/test_clusters.py."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from detcon_d2 import d2
from detcon_d2.methods.pretext.deep_cluster import DeepCluster, balanced_weights
from detcon_d2.methods.pretext.deep_cluster_hook import CentralSquare
from tests.engine.runs import StopAfter, Stopped, arguments, assert_same_state, final_state, metrics, pretrainer, run
from tests.engine.test_trainer import run_main
from tests.methods.test_contract import HELD, batch_of, build, options
from tests.prepared import launch

# 12 images in batches of 4: a round is 3 iterations.
SHORT = {"SOLVER__WARMUP_ITERS": 0, "DETCON__LOG_PERIOD": 1}


def tables(output: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted((output / "clusters").iterdir())}


def test_weights_balance_the_clusters_and_their_mean_over_the_images_is_one():
    sizes = np.array([1, 0, 7, 4])
    weights = balanced_weights(sizes)
    assert (weights * sizes).sum() == pytest.approx(sizes.sum())
    assert weights[1] == 0 and np.allclose((weights * sizes)[[0, 2, 3]], 4)


def test_the_loss_is_the_weighted_cross_entropy_of_the_clusters(photos):
    model, batch = batch_of("DeepCluster", photos, 4, **HELD)
    model.use_labels(np.array([0] * 9 + [1, 2, 2], np.int32))
    with d2.EventStorage():
        embeddings = model.embed(batch)
    index = [sample["index"] for sample in batch]
    assert embeddings["labels"].tolist() == model.labels[index].tolist()
    weights = torch.tensor([12 / 3 / (9, 1, 2)[label] for label in embeddings["labels"]])
    torch.testing.assert_close(embeddings["weights"], weights)
    chosen = embeddings["logits"].log_softmax(1)[torch.arange(4), embeddings["labels"]]
    torch.testing.assert_close(model.criterion(embeddings)["loss_deep_cluster"], -(weights * chosen).sum() / 4)
    assert model.metrics(embeddings)["chance"] == pytest.approx(9 / 12)


def test_features_depend_on_the_image_alone_and_leave_the_network_as_it_is(photos):
    _, model, _, _ = build("DeepCluster", photos)
    images = torch.randint(0, 256, (3, 3, 64, 64)).byte()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = model.whole_features(images)
    torch.testing.assert_close(whole[1:2], model.whole_features(images[1:2]))
    assert model.encoder.training and not whole.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_central_square_has_the_middle_of_the_shorter_side():
    image = np.zeros((256, 400, 3), np.uint8)
    image[16:240, 88:312] = 200
    square = CentralSquare(224, "bilinear_pil", False)(image, 0)["image"]
    assert square.shape == (3, 224, 224) and (square == 200).all()


def test_a_round_starts_with_the_epoch_and_resets_classifier_and_momentum(photos, tmp_path):
    trainer = pretrainer(options("DeepCluster", photos, tmp_path, SOLVER__MAX_ITER=4, **SHORT))
    hook, classifier, seen = trainer.method_hooks[0], trainer.network.heads["classifier"], []
    reset = trainer.network.reset_classifier

    def watch(weight: torch.Tensor) -> None:
        reset(weight)
        seen.append((trainer.iter, weight.clone(), classifier.weight.detach().clone(), float(classifier.bias.abs().max())))

    trainer.network.reset_classifier = watch
    found = []
    original = hook.refresh
    hook.refresh = lambda iteration: (original(iteration), found.append(classifier.weight in trainer.optimizer.state))
    trainer.train()
    assert [iteration for iteration, *_ in seen] == [0, 3] and found == [False, False]
    for _, drawn, set_to, bias in seen:
        assert torch.equal(drawn, set_to) and bias == 0 and drawn.std() == pytest.approx(0.01, rel=0.15)
    assert not torch.equal(seen[0][1], seen[1][1])
    # Only the last file is kept, as there is no checkpoint between.
    (table,) = tables(tmp_path).values()
    assert table.dtype == np.int32 and table.shape == (12,) and set(table) <= set(range(4))
    figures = [row for row in metrics(tmp_path) if "learning/empty_clusters" in row]
    assert [row["iteration"] for row in figures] == [0, 3]
    assert "learning/nmi_with_last_round" not in figures[0] and 0 <= figures[1]["learning/nmi_with_last_round"] <= 1
    assert all(row["learning/chance"] == pytest.approx(row["learning/largest_cluster"]) for row in figures)


def test_a_run_resumed_between_or_at_rounds_is_bit_exact(photos, tmp_path):
    extra = SHORT | {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__MAX_ITER": 7}
    run(arguments(options("DeepCluster", photos, tmp_path / "one", **extra)))
    for stop in (3, 5):
        interrupted = options("DeepCluster", photos, tmp_path / "two", **extra)
        trainer = pretrainer(interrupted)
        trainer.resume_or_load(resume=True)
        trainer.register_hooks([StopAfter(stop)])
        with pytest.raises(Stopped):
            trainer.train()
    run(arguments(interrupted), resume=True)
    assert_same_state(final_state(tmp_path / "one"), final_state(tmp_path / "two"))
    one, two = tables(tmp_path / "one"), tables(tmp_path / "two")
    assert one["iter0000006.npy"].tolist() == two["iter0000006.npy"].tolist()


def run_to_the_end(args: argparse.Namespace) -> None:
    """Without the trainer that the other returns, which would be an exit code."""
    run_main(args)


def test_the_clusters_of_two_processes_are_those_of_one(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = []
    for count in (1, 2):
        output = tmp_path / str(count)
        extra = {"SOLVER__MAX_ITER": 1, "DETCON__PROBE__ENABLED": False} | SHORT
        launch(run_to_the_end, arguments(options("DeepCluster", photos, output, **extra), num_gpus=count))
        found.append((tables(output)["iter0000000.npy"], metrics(output)[-1]["total_loss"]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-4)


def test_settings_that_cannot_work_are_refused_and_many_clusters_doubted(photos):
    cfg, model, _, records = build("DeepCluster", photos)
    assert all(fulfilled for fulfilled, *_ in DeepCluster.check_config(cfg))
    assert "at most a tenth of them, 1" in DeepCluster.doubts(cfg, 12)[0] and not DeepCluster.doubts(cfg, 40)
    with pytest.raises(ValueError, match=r"DEEP_CLUSTER.K is 4; expected at most 3"):
        model.hooks(cfg, records[:3])
    wrong = {"K": 1, "COMPONENTS": 0, "ITERATIONS": -1, "REFRESH_EPOCHS": 0}
    cfg.merge_from_list([item for key, value in wrong.items() for item in (f"DETCON.DEEP_CLUSTER.{key}", value)])
    cfg.merge_from_list(["DETCON.HELD_OUT.DATASETS", ("folder:x",)])
    refused = [key for fulfilled, key, *_ in DeepCluster.check_config(cfg) if not fulfilled]
    assert refused == [*(f"DETCON.DEEP_CLUSTER.{key}" for key in wrong), "DETCON.HELD_OUT.DATASETS"]
