"""The table of frozen encoders: every method is pretrained by its command, and classified next to untrained encoders."""

import json
from pathlib import Path

import pytest

from detcon_d2.engine.setup import load_config
from detcon_d2.model_zoo import get_config
from detcon_d2.quickstart import knn
from detcon_d2.quickstart.evidence import KNN_EPOCHS, KNN_METHODS, parse_args
from detcon_d2.quickstart.runs import METHODS, Training
from detcon_d2.quickstart.shapes import ShapesConfig


@pytest.fixture
def data_set(tmp_path: Path) -> knn.RegionImages:
    return knn.RegionImages(tmp_path / "regions", ShapesConfig(size=48, num_unlabeled=20, num_train=1, num_val=4))


def pretend_to_train(folder: Path, minutes: float, **metrics: float) -> None:
    """What a run leaves, except for its checkpoint."""
    (folder / "stages").mkdir(parents=True)
    (folder / "pretrain").mkdir()
    (folder / "pretrain/config.yaml").write_text(get_config("quickstart/simclr_R_18.yaml").dump())
    (folder / "stages/pretrain.json").write_text(json.dumps({"seconds": 60 * minutes}))
    rows = [{"iteration": 9, **{f"learning/{name}": 0.0 for name in metrics}}, {"iteration": 19, "loss_any": 1.0}]
    rows.append({"iteration": 19, **{f"learning/{name}": value for name, value in metrics.items()}})
    (folder / "pretrain/metrics.json").write_text("\n".join(map(json.dumps, rows)))


def test_every_method_is_pretrained_and_compared_with_untrained_encoders(data_set, tmp_path, monkeypatch):
    chains = {}

    def run_chains(found, jobs=1):
        chains.update(found)
        for name in found:
            if name != "fh":
                pretend_to_train(data_set.folder / name, 1.5, projection_std=0.875)

    monkeypatch.setattr(knn, "run_chains", run_chains)
    monkeypatch.setattr(knn, "_trained", lambda run: knn._untrained(load_config(str(run.pretrain / "config.yaml"), []), 7))
    text = knn.run_knn(tmp_path, data_set, ["simclr", "detcon_b"], [Training(0, 2.0, 10)], 1)
    assert list(chains) == ["fh", "simclr-0", "detcon_b-0"]
    assert [len(chain) for chain in chains.values()] == [1, 1, 1]  # no conversion
    assert all(any(str(data_set.crops("unlabeled")) in word for word in command.words) for (command,) in chains.values())
    _, _, baseline, simclr, detcon = text.splitlines()
    assert baseline.startswith("| random, 5 seeds | ") and "±" in baseline
    assert simclr.startswith("| SimCLR | ") and simclr.endswith(" | 1.5 | projection_std 0.88 |")
    assert detcon.startswith(f"| {METHODS['detcon_b'].title} | ")
    assert (tmp_path / "knn.md").read_text() == text


def test_a_table_of_random_encoders_alone_is_refused(data_set, tmp_path):
    with pytest.raises(ValueError, match="--knn found the methods random; expected at least one that is pretrained"):
        knn.run_knn(tmp_path, data_set, ["random"], [Training(0, 2.0, 10)], 1)


def test_knn_has_its_own_methods_seeds_and_length():
    args = parse_args(["--knn"])
    assert (args.methods, args.seeds, args.epochs) == (list(KNN_METHODS), [0], KNN_EPOCHS)
    titles = {METHODS[name].config for name in KNN_METHODS}
    assert titles == {f"{name}_R_18.yaml" for name in KNN_METHODS} and len(titles) == 10
    assert (args := parse_args(["--knn", "--methods", "byol", "--epochs", "1"])).methods == ["byol"] and args.epochs == 1
