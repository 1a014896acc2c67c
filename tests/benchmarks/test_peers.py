"""A peer's weights become a converted backbone, and lines for an experiment's plan."""

import json

import peers
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from detcon_d2.checkpoint import read_metadata


def test_each_peer_is_trained_once_per_seed_converted_and_named_in_the_plan(tmp_path, monkeypatch, capsys):
    ran = []

    def train(name, spec, output, args, seed):
        ran.append((name, spec, seed))
        torch.manual_seed(seed)
        torch.save(torchvision.models.resnet18().state_dict(), output / "model.pt")
        return output / "model.pt"

    monkeypatch.setitem(peers.TRAINERS, "lightly-train", train)
    for number in range(2):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    options = [str(tmp_path), "--batch", "2", "--output", str(tmp_path / "out"), "--peers", "lightly-train:simclr", "--seeds", "0", "1"]
    assert peers.main(options) == 0 and peers.main(options) == 0
    assert ran == [("simclr", f"folder:{tmp_path}", seed) for seed in (0, 1)]
    plan = yaml.safe_load(capsys.readouterr().out.rpartition("methods:")[2])
    weights = plan["lightly-train-simclr"]["weights"]
    assert all(read_metadata(weights.replace("{seed}", str(seed)))["style"] == "torchvision" for seed in (0, 1))
    found = json.loads((tmp_path / "out/lightly-train-simclr/seed_1/seconds.json").read_text())
    assert found["images_seen"] == 50_000 and found["seconds"] > 0


@pytest.mark.parametrize("peer", ["timm:simclr", "lightly", "lightly:"])
def test_unknown_peers_are_refused(tmp_path, capsys, peer):
    with pytest.raises(SystemExit):
        peers.main([str(tmp_path), "--output", str(tmp_path), "--peers", peer])
    assert f"the peer {peer} is unknown" in capsys.readouterr().err


def test_fewer_images_than_a_batch_are_refused(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(SystemExit):
        peers.main([str(tmp_path), "--output", str(tmp_path / "out")])
    assert "--batch is 64; expected 1 to 1, with 1 images and --seen 50000" in capsys.readouterr().err


def test_batches_are_repeated_up_to_the_number_of_steps():
    data = torch.utils.data.DataLoader([(index, 0) for index in range(5)], 2, drop_last=True)
    assert [views.tolist() for views in peers._repeated(data, 5)] == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
