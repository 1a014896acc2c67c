#!/usr/bin/env python
"""Pretrain ResNet-18s by lightly's and lightly-train's methods on a folder of images, and convert them: rows for 'detcon_d2 experiment'.

Each of them has its own defaults; lightly's are those of its examples. Needs 'pip install lightly lightly-train'. The command prints
seconds and images/s of each whole run (start, loader and step), and the lines for the plan.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from machine import describe_machine
from PIL import Image

from detcon_d2.checkpoint.convert.command import main as convert
from detcon_d2.io.images import read_image
from detcon_d2.io.specs import list_images

_EPILOG = """
examples
  python tools/benchmarks/peers.py /data/photos --output output/peers --seen 50000 --size 65
  python tools/benchmarks/peers.py /data/photos --output output/peers --seen 50000 --size 65 --peers lightly-train:simclr --seeds 0 1 2
PEER is lightly:NAME, of SimCLR, BYOL, MoCo, SwAV, DINO and DetConS (on a grid, as lightly's example), or lightly-train:NAME, of its
methods.
A run whose backbone exists is not repeated.
"""
_TRAIN = """
import json, sys
import lightly_train
options = json.loads(sys.argv[1])
if __name__ == "__main__":
    import pytorch_lightning
    pytorch_lightning.seed_everything(options.pop("seed"))
    lightly_train.pretrain(model="torchvision/resnet18", overwrite=True, accelerator="cpu", devices=1, precision="32-true", **options)
"""


class Images(torch.utils.data.Dataset):
    """The images of a spec by a transform of PIL images, with a label 0 that nothing uses."""

    def __init__(self, spec: str, transform):
        self.records, self.transform = list_images(spec), transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(Image.fromarray(read_image(self.records[index]["file_name"]))), 0


def train_lightly(name: str, spec: str, output: Path, args: argparse.Namespace, seed: int) -> Path:
    """The method of :mod:`methods_peers` for ``--seen`` images; returns the checkpoint."""
    from methods_peers import build_peer, peer_transform

    torch.manual_seed(seed)
    model, step = build_peer(name, 18)
    data = Images(spec, peer_transform(name, args.size, (0, 0) if name == "DetConS" else tuple(args.local)))
    loader = torch.utils.data.DataLoader(data, args.batch, shuffle=True, drop_last=True, num_workers=args.workers)
    for number, views in enumerate(_repeated(loader, args.seen // args.batch), 1):
        loss = step(views)
        if number % 20 == 0:
            print(f"lightly:{name} {number} of {args.seen // args.batch}: loss {loss:.3f}", flush=True)
    weights = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    torch.save({"state_dict": weights}, output / "checkpoint.pth")
    return output / "checkpoint.pth"


def train_lightly_train(name: str, spec: str, output: Path, args: argparse.Namespace, seed: int) -> Path:
    """lightly-train's method for ``--seen`` images; returns the model that it exports, in torchvision's names."""
    options = {"out": str(output / "run"), "data": spec.partition(":")[2], "method": name, "seed": seed, "batch_size": args.batch}
    options |= {"num_workers": args.workers, "transform_args": {"image_size": [args.size, args.size]}}
    # It drops the last, incomplete batch of each epoch. Its schedule ends with the steps.
    steps = args.seen // args.batch
    options |= {"epochs": -(-steps // (len(list_images(spec)) // args.batch)), "trainer_args": {"max_steps": steps}}
    subprocess.run([sys.executable, "-c", _TRAIN, json.dumps(options)], check=True)
    return output / "run/exported_models/exported_last.pt"


def _repeated(loader: torch.utils.data.DataLoader, steps: int) -> Iterator[list]:
    while True:
        for views, _ in loader:
            if steps == 0:
                return
            steps -= 1
            yield views


TRAINERS = {"lightly": train_lightly, "lightly-train": train_lightly_train}


def backbone_of(output: Path, peer: str, seed: str) -> Path:
    """The converted file of a peer."""
    return output.absolute() / peer.replace(":", "-") / f"backbone_{seed}.pth"


def pretrain(peer: str, args: argparse.Namespace, seed: int) -> Path:
    """Run a peer, and write ``seconds.json`` next to its files; returns the checkpoint."""
    program, _, name = peer.partition(":")
    folder = backbone_of(args.output, peer, "").parent / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    checkpoint = TRAINERS[program](name, f"folder:{args.images}", folder, args, seed)
    seconds = time.perf_counter() - start
    print(f"{peer}, seed {seed}: {seconds:.0f} s, {args.seen / seconds:.1f} images/s", flush=True)
    (folder / "seconds.json").write_text(json.dumps({"seconds": seconds, "images_seen": args.seen, **describe_machine()}))
    return checkpoint


def main(argv: list[str] | None = None) -> int:
    """Train and convert; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", metavar="FOLDER", help="the images, in any sub-folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    known = ["lightly:SimCLR", "lightly:DetConS", "lightly-train:simclr", "lightly-train:dino"]
    parser.add_argument("--peers", nargs="+", default=known, metavar="PEER", help=f"(default: {' '.join(known)})")
    parser.add_argument("--seen", type=int, default=50_000, help="images that a run sees (default: %(default)s)")
    parser.add_argument("--size", type=int, default=65, help="side of the large views in pixels (default: %(default)s)")
    parser.add_argument("--local", type=int, nargs=2, default=[2, 33], metavar=("COUNT", "SIZE"), help="small views of SwAV and DINO")
    parser.add_argument("--batch", type=int, default=64, help="images of a batch (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that load (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    args = parser.parse_args(argv)
    for peer in args.peers:
        if peer.partition(":")[0] not in TRAINERS or not peer.partition(":")[2]:
            parser.error(f"the peer {peer} is unknown; expected lightly:NAME or lightly-train:NAME")
    found = len(list_images(f"folder:{args.images}"))
    if not 0 < args.batch <= min(found, args.seen):
        parser.error(f"--batch is {args.batch}; expected 1 to {min(found, args.seen)}, with {found} images and --seen {args.seen}")
    for seed in args.seeds:
        for peer in args.peers:
            backbone = backbone_of(args.output, peer, str(seed))
            if not backbone.is_file() and (code := convert([str(pretrain(peer, args, seed)), str(backbone), "--overwrite"])):
                return code
    paths = [backbone_of(args.output, peer, "{seed}") for peer in args.peers]
    print("methods:", *(f"  {path.parent.name}: {{weights: '{path}'}}" for path in paths), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
