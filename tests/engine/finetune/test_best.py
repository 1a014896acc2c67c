"""The best checkpoint of fine-tuning by a metric, and the end of training when it does not improve."""

from pathlib import Path

import pytest

from detcon_d2.checkpoint import load_checkpoint_file
from detcon_d2.engine.finetune.trainer import FinetuneTrainer
from tests.detectors import detector_opts
from tests.engine.runs import StopAfter, Stopped, finetuner, results, train

NAN = float("nan")


@pytest.fixture
def evaluations(monkeypatch):
    """Sets the box AP of each evaluation, by the number of iterations."""
    values: dict[int, float] = {}

    def evaluate(cfg, model) -> dict:
        (trainer,) = trainers
        # Before the first iteration nothing is recorded yet.
        done = min(trainer.iter + 1, trainer.max_iter) if trainer.storage.latest() else trainer.start_iter
        return {"val": {"bbox": {"AP": values[done]}}}

    trainers: list[FinetuneTrainer] = []
    before = FinetuneTrainer.__init__

    def remember(self, *args) -> None:
        trainers[:] = [self]
        before(self, *args)

    monkeypatch.setattr(FinetuneTrainer, "__init__", remember)
    monkeypatch.setattr("detcon_d2.engine.finetune.trainer.evaluate", evaluate)
    return values


def opts_of(shapes: Path, folder: Path, **extra: object) -> list[str]:
    options = {"SOLVER__MAX_ITER": 6, "SOLVER__IMS_PER_BATCH": 2, "SOLVER__CHECKPOINT_PERIOD": 2, "TEST__EVAL_PERIOD": 1}
    options |= {"TEST__PRECISE_BN__ENABLED": False, "DETCON__TEST__BEST_METRIC": "bbox/AP"}
    return detector_opts(shapes, folder, **options | extra)


def best_iteration(folder: Path) -> int:
    return load_checkpoint_file(folder / "model_best.pth")["iteration"]


@pytest.mark.parametrize(("values", "best"), [([1, 3, 2, 3, NAN, 1], 1), ([1, 1, 1, 1, 1, 2], 5), ([NAN, 0, NAN, NAN, NAN, NAN], 1)])
def test_the_checkpoint_with_the_highest_metric_is_kept_beside_the_last(shapes, tmp_path, evaluations, values, best):
    evaluations.update(enumerate(values, 1))
    train(finetuner(opts_of(shapes, tmp_path)))
    assert best_iteration(tmp_path) == best and (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_training_ends_early_without_progress_and_a_resumed_run_does_not_go_on(shapes, tmp_path, evaluations):
    evaluations.update(enumerate([1, 3, 2, 3], 1))
    opts = opts_of(shapes, tmp_path, DETCON__TEST__EARLY_STOPPING=2)
    trainer = train(finetuner(opts))
    assert trainer.iter + 1 == 4 and best_iteration(tmp_path) == 1 and results(tmp_path)["iteration"] == 4
    assert load_checkpoint_file(tmp_path / "model_final.pth")["iteration"] == 3
    train(finetuner(opts, resume=True), resume=True)
    assert "stopped early (DETCON.TEST.EARLY_STOPPING): best bbox/AP 3 after iteration 1" in (tmp_path / "log.txt").read_text()


def test_a_resumed_run_knows_the_best_and_makes_up_for_an_evaluation_that_was_missed(shapes, tmp_path, evaluations):
    """The checkpoint of iteration 1 was saved before its evaluation, which found the best so far."""
    evaluations.update(enumerate([1, 3, 2, 2, 2, 2], 1))
    trainer = finetuner(opts_of(shapes, tmp_path))
    trainer.register_hooks([StopAfter(3)])
    with pytest.raises(Stopped):
        trainer.train()
    (tmp_path / "model_best.pth").unlink()
    train(finetuner(opts_of(shapes, tmp_path), resume=True), resume=True)
    assert best_iteration(tmp_path) == 1


def test_an_unknown_metric_is_named_with_those_that_there_are(shapes, tmp_path, evaluations):
    evaluations.update(enumerate([1] * 6, 1))
    with pytest.raises(ValueError, match=r"BEST_METRIC is 'segm/AP'; expected a metric of the evaluation, such as bbox/AP"):
        train(finetuner(opts_of(shapes, tmp_path, DETCON__TEST__BEST_METRIC="segm/AP")))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"DATASETS__TEST": "()"}, "BEST_METRIC is 'bbox/AP'; expected '', because DATASETS.TEST is empty"),
        ({"DETCON__TEST__EARLY_STOPPING": 2, "TEST__EVAL_PERIOD": 0}, "EARLY_STOPPING is 2; expected a number of evaluations"),
        ({"DETCON__TEST__EARLY_STOPPING": 2, "DETCON__TEST__BEST_METRIC": ""}, "EARLY_STOPPING is 2; expected"),
        ({"DETCON__TEST__EARLY_STOPPING": -1}, "EARLY_STOPPING is -1; expected"),
    ],
)
def test_keys_that_cannot_work_together_are_refused(shapes, tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        finetuner(opts_of(shapes, tmp_path, **extra))
