"""What a frozen encoder is worth: kNN and a linear probe of its features on labelled images."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from detcon_d2 import d2
from detcon_d2.checkpoint.convert.key_maps import BRANCHES
from detcon_d2.checkpoint.convert.readers import read_checkpoint
from detcon_d2.checkpoint.zoo.download import file_digest
from detcon_d2.engine.setup import load_config
from detcon_d2.evaluation.evaluate import NATIVE, accuracy_table, evaluate_encoder
from detcon_d2.evaluation.frozen import FrozenEncoder, random_encoder, trained_encoder
from detcon_d2.evaluation.labelled import FORMS
from detcon_d2.evaluation.linear_probe import PROTOCOLS
from detcon_d2.io.atomic import atomic_file
from detcon_d2.model_zoo import find_config

RANDOM = "random"
_EPILOG = f"""
examples
  kNN (k = 20 and 200, temperature 0.07) and MoCo's linear probe
    %(prog)s output/photos/model_final.pth folder:/data/train folder:/data/val --output output/probe
  two protocols, the averaged encoder, the published learning rate of one of them
    %(prog)s model_final.pth folder:/data/train folder:/data/val --output output/ema --encoder ema --protocol moco byol
  the encoder before training, to compare with
    %(prog)s random folder:/data/train folder:/data/val --config-file DetCon/detcon_b_R_50_in1k_300ep.yaml --output output/random
  the CIFAR-10 experiment of DetCon's slides: pooling and a linear layer on a frozen encoder, at 32 pixels (--size 224: at 224). There,
  ImageNet's supervised weights gave 69.0 %%, DetCon on VOC 26.0 %% and 19.5 %% (regions by hand and by FH); chance is 10 %%
    %(prog)s model_final.pth cifar10:/data/cifar-10-batches-bin cifar10:/data/cifar-10-batches-bin --output output/cifar10 \\
        --protocol slides_adam slides_sgd

WEIGHTS is any checkpoint that 'detcon_d2 convert_to_d2' reads; its metadata give pixel statistics and channel order. Convert it first
where these need an option of that command, such as --statistics unit.
TRAIN and TEST: {FORMS}
(TRAIN reads its data_batch_*.bin, TEST its test_batch.bin). Classes are matched by name.
The probe is trained on features of whole images, without augmentation. Its learning rate is chosen on a tenth of the training images; TEST
plays no part in it. Rates are for a batch of 256 and scaled to the batch in use.
OUTPUT holds evaluation.json and features/, from which an interrupted call continues; delete features/ when you are done.
exit status: 0 done; 2 nothing evaluated, the message says why
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of ``tools/evaluate_encoder.py``."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", metavar="WEIGHTS", help=f"checkpoint, or a name for it, or {RANDOM!r} with --config-file")
    parser.add_argument("train", metavar="TRAIN", help="images to train the classifiers on")
    parser.add_argument("test", metavar="TEST", help="images to test them on")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--encoder", choices=sorted(BRANCHES), default="online", help="online or averaged (default: online)")
    parser.add_argument("--config-file", metavar="FILE", help=f"pretraining config of the {RANDOM} encoder")
    parser.add_argument("--seed", type=int, help=f"of the {RANDOM} encoder (default: the config's SEED)")
    size = f"side of the images: the shorter side becomes SIZE * 256 / 224, the centre is cut out; {NATIVE}: as they are"
    parser.add_argument("--size", type=_size, help=f"{size} (default: 224; for cifar10 {NATIVE})")
    parser.add_argument(
        "--protocol",
        nargs="*",
        dest="protocols",
        choices=list(PROTOCOLS),
        default=["moco"],
        help="of the probe; none: kNN alone (default: moco)",
    )
    rates = "learning rates to try for a batch of 256 (default: 0.1 0.3 1 3 10 30 and the protocol's own; slides: their own)"
    parser.add_argument("--rates", nargs="+", type=float, metavar="RATE", help=rates)
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass (default: %(default)s)")
    parser.add_argument("--num-workers", type=int, default=4, help="processes that read images (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the JSON and print the table; returns the exit status, 2 for a user's mistake."""
    args = parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        encoder, facts = _load(args)
        encoder.to("cuda" if torch.cuda.is_available() else "cpu")
        options = {name: getattr(args, name) for name in ("size", "batch_size", "num_workers", "protocols", "rates")}
        result = evaluate_encoder(encoder, args.train, args.test, args.output / "features", **options)
        with atomic_file(args.output / "evaluation.json") as file:
            file.write(json.dumps(facts | result, indent=1).encode())
    except (ValueError, OSError) as error:
        print(f"evaluate_encoder: {error}", file=sys.stderr)
        return 2
    print(*accuracy_table(result), f"wrote {args.output / 'evaluation.json'}", sep="\n")
    return 0


def _load(args: argparse.Namespace) -> tuple[FrozenEncoder, dict[str, Any]]:
    """The encoder, and what the JSON says about it."""
    if (args.weights == RANDOM) != (args.config_file is not None):
        raise ValueError(
            f"WEIGHTS is {args.weights} and --config-file {args.config_file}; expected --config-file with {RANDOM}, and only then."
        )
    if args.weights == RANDOM:
        cfg = load_config(find_config(args.config_file), [] if args.seed is None else ["SEED", str(args.seed)])
        return random_encoder(cfg), {"weights": RANDOM, "config": args.config_file, "seed": cfg.SEED}
    path = Path(d2.PathManager.get_local_path(args.weights))
    if not path.is_file():
        raise ValueError(f"No checkpoint at {args.weights}.")
    backbone = read_checkpoint(path, branch=args.encoder)
    print(*backbone.notes, sep="\n")
    # A converted file holds one encoder, and its metadata name it.
    branch = backbone.metadata.get("encoder", args.encoder) if "converted_to" in backbone.metadata else args.encoder
    facts = {"weights": args.weights, "weights_sha256": file_digest(path, "sha256"), "encoder": branch}
    return trained_encoder(backbone), facts | {"metadata": backbone.metadata}


def _size(text: str) -> int | str:
    if text != NATIVE and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text}; expected a number of pixels or {NATIVE}")
    return text if text == NATIVE else int(text)
