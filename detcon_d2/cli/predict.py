"""Draw a detector's boxes and masks on images, and write them as COCO results."""

import argparse
import logging
import sys
from pathlib import Path

import detcon_d2.methods  # noqa: F401  (registers the backbones)
from detcon_d2.engine.finetune.predict import Predictor, find_images, predict
from detcon_d2.engine.setup import DETECTOR_NORMS, load_config, resolve_device, resolve_norms
from detcon_d2.model_zoo import find_config

_EPILOG = """
example:
  %(prog)s --config-file output/run/config.yaml --weights output/run/model_final.pth --output output/pictures photos/ cat.jpg

OUTPUT/pictures contains the drawn images, OUTPUT/predictions.json COCO results, OUTPUT/images.json the id of each image.
exit status: 0 done; 1 some images could not be read; 2 nothing done, the message says why
"""


def main(argv: list[str] | None = None) -> int:
    """Write pictures and results; returns the exit status: 1 if an image could not be read, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="images and folders of images")
    parser.add_argument("--config-file", required=True, help="config of the detector; a run writes its own as OUTPUT_DIR/config.yaml")
    parser.add_argument("--weights", help="checkpoint of the detector (default: MODEL.WEIGHTS of the config)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="leave out detections with a lower score (default: 0.5)")
    parser.add_argument("--skip-bad", action="store_true", help="exit with 0 even if images could not be read; they are still listed")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="overrides of the config; last")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = load_config(find_config(args.config_file), args.opts)
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.score_threshold
        for line in resolve_device(cfg) + resolve_norms(cfg, 1, DETECTOR_NORMS):
            print(line)
        images = find_images(args.images)
        predictor = Predictor(cfg, args.weights or cfg.MODEL.WEIGHTS)
        for line in predictor.reading.describe([{"file_name": str(path)} for path in images.values()]):
            print(line)
    except (ValueError, FileNotFoundError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    bad = predict(predictor, images, args.output)
    if bad:
        print(f"{len(bad)} of {len(images)} images could not be read:", *bad, sep="\n  ", file=sys.stderr)
    return 1 if bad and not args.skip_bad else 0
