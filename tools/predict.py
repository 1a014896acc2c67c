#!/usr/bin/env python
"""Draw a detector's boxes and masks on images, and write them as COCO results."""

import argparse
import logging
import sys
from pathlib import Path

import detcon_d2.methods  # noqa: F401  (registers the backbones)
from detcon_d2.engine import load_config
from detcon_d2.engine.finetune.predict import Predictor, find_images, predict
from detcon_d2.engine.setup import DETECTOR_NORMS, resolve_device, resolve_norms

_EPILOG = """
example:
  predict.py --config-file output/run/config.yaml --weights output/run/model_final.pth --output output/pictures photos/ cat.jpg

OUTPUT/pictures holds the drawn images, OUTPUT/predictions.json COCO results, OUTPUT/images.json which image has which id.
"""


def argument_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="images and folders of images")
    parser.add_argument("--config-file", required=True, help="config of the detector; a run leaves its own as OUTPUT_DIR/config.yaml")
    parser.add_argument("--weights", help="checkpoint of the detector (default: MODEL.WEIGHTS of the config)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="leave out detections with a lower score (default: 0.5)")
    parser.add_argument(
        "--skip-bad", action="store_true", help="exit with 0 although images could not be read; they are named all the same"
    )
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides of the config; last")
    return parser


def main(args: argparse.Namespace) -> int:
    """Returns the exit code: 1 if an image could not be read, 2 for a user's mistake."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = load_config(args.config_file, args.opts)
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.score_threshold
        for line in resolve_device(cfg) + resolve_norms(cfg, 1, DETECTOR_NORMS):
            print(line)
        images = find_images(args.images)
        predictor = Predictor(cfg, args.weights or cfg.MODEL.WEIGHTS)
    except (ValueError, FileNotFoundError) as error:
        print(f"predict.py: {error}", file=sys.stderr)
        return 2
    bad = predict(predictor, images, args.output)
    if bad:
        print(f"{len(bad)} of {len(images)} images could not be read:", *bad, sep="\n  ", file=sys.stderr)
    return 1 if bad and not args.skip_bad else 0


if __name__ == "__main__":
    sys.exit(main(argument_parser().parse_args()))
