"""Turn a checkpoint of any known style into weights for Detectron2's Mask R-CNN (or torchvision, timm), with the config that fits them."""

import argparse
import logging
import sys

from detcon_d2.checkpoint.convert.converter import convert
from detcon_d2.checkpoint.convert.key_maps import BRANCHES, TARGETS
from detcon_d2.checkpoint.convert.spec import STATISTICS
from detcon_d2.checkpoint.convert.styles import STYLES

_EPILOG = """
examples
  the usual case: weights.pkl, and next to it weights.yaml, a complete Mask R-CNN FPN config that fits them
    %(prog)s output/photos/model_final.pth weights.pkl
    detcon_d2 train_net --config-file weights.yaml OUTPUT_DIR output/finetune
  another protocol: any config with these weights; training refuses to start when the two disagree
    detcon_d2 train_net --config-file configs/COCO-InstanceSegmentation/... MODEL.WEIGHTS weights.pkl
  the EMA (target) encoder of DetCon_B in place of the online one
    %(prog)s model_final.pth weights_ema.pkl --encoder ema
  the released DetCon weights: the YAML asks for their SAME padding; COCO pretraining took images in [0, 1]
    %(prog)s resnet50_detcon_b_imagenet_1k.npy weights.pkl
    %(prog)s resnet50_detcon_b_coco.npy weights.pkl --statistics unit
  for torchvision.models.resnet50().load_state_dict(torch.load("weights.pth"), strict=False), where only fc is missing
    %(prog)s model_final.pth weights.pth --to torchvision
  weights from large learning rates or LARS that fine-tune worse than random ones: try this, and a sweep of SOLVER.BASE_LR
    %(prog)s simclr.ckpt weights.pkl --rescale

OUTPUT's suffix is the format
  .pkl .pth       what MODEL.WEIGHTS of any Detectron2 takes (.pth alone for torchvision and timm)
  .safetensors    for the tools of this repository, torchvision and timm; needs: pip install safetensors

INPUT's style is detected from its keys and printed; --from sets it instead. --prefix reads a ResNet of any other file.
What is checked: every tensor of the backbone is there with its shape, nothing is left over, and the network built from the written YAML and
file gives the features that the pretraining encoder gave. INPUT is never changed; OUTPUT appears complete or not at all.
exit status: 0 written; 2 nothing written, the message gives the reason
"""


class _ListStyles(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for style in STYLES.values():
            print(f"{style.name}: {style.publishes}" + (f"\n    {style.note}" if style.note else ""))
        parser.exit()


def main(argv: list[str] | None = None) -> int:
    """Run the command line (default: that of the process); returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="INPUT", help="checkpoint, such as model_final.pth of a pretraining run, or a name for it")
    parser.add_argument("output", metavar="OUTPUT", help="file to write: .pkl, .pth or .safetensors")
    parser.add_argument("--encoder", choices=sorted(BRANCHES), default="online", help="online or averaged (default: online)")
    parser.add_argument("--from", dest="style", choices=list(STYLES), metavar="STYLE", help="INPUT's style (default: detected)")
    parser.add_argument("--prefix", help="what comes before the backbone's names in INPUT, such as net.resnet.; the rest is dropped")
    parser.add_argument("--list-styles", action=_ListStyles, nargs=0, help="print the known styles and exit")
    parser.add_argument("--statistics", choices=sorted(STATISTICS), help="pixels in pretraining: ImageNet's statistics, or unit, [0, 1]")
    parser.add_argument("--to", choices=TARGETS, default="detectron2", help="whose key names OUTPUT has (default: detectron2)")
    parser.add_argument("--rescale", action="store_true", help="give convolutions the norms of a fresh initialisation; same features")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT and the file next to it")
    parser.add_argument("--no-check", action="store_true", help="do not compare features before and after")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    options = {"style": args.style, "branch": args.encoder, "prefix": args.prefix, "target": args.to, "rescaled": args.rescale}
    options["facts"] = STATISTICS.get(args.statistics)
    try:
        print("\n".join(convert(args.input, args.output, **options, overwrite=args.overwrite, check=not args.no_check)))
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
