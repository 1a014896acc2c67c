"""``detcon_d2 COMMAND ...`` runs every tool of a checkout's ``tools/`` from an installed package, with the same arguments."""

import difflib
import importlib
import sys

import detcon_d2

COMMANDS = {
    "train_net": ("detcon_d2.cli.train_net", "pretrain, fine-tune a detector, or evaluate one"),
    "generate_masks": ("detcon_d2.masks.commands.generate_masks", "make the label maps (regions) of a data set"),
    "merge_masks": ("detcon_d2.masks.commands.merge_masks", "check, repair, merge and convert folders of label maps"),
    "check_data": ("detcon_d2.masks.commands.check_data", "look at data sets before training, with pictures of what is odd"),
    "visualize_masks": ("detcon_d2.masks.commands.visualize_masks", "draw the regions of several sources next to each other"),
    "score_masks": ("detcon_d2.masks.commands.score_masks", "score regions against human segmentations"),
    "visualize_views": ("detcon_d2.cli.visualize_views", "draw the views and regions that pretraining sees"),
    "convert_to_d2": ("detcon_d2.checkpoint.convert.command", "convert a checkpoint of any known style to a backbone"),
    "evaluate_encoder": ("detcon_d2.cli.evaluate_encoder", "what a frozen encoder is worth: kNN and linear probe"),
    "compare": ("detcon_d2.quickstart.compare.command", "lay finished runs side by side: curves, budgets, AP, probes"),
    "zoo": ("detcon_d2.checkpoint.zoo.command", "list, download and check published checkpoints"),
    "predict": ("detcon_d2.cli.predict", "draw a detector's boxes and masks on images"),
    "recipe": ("detcon_d2.recipe.command", "configs and a script for your own images and budget, with reasons"),
    "quickstart": ("detcon_d2.quickstart.quickstart", "the whole job on built-in images, in minutes"),
    "report": ("detcon_d2.quickstart.report.report", "write the HTML report of a quickstart again"),
    "experiment": ("detcon_d2.experiment.command", "compare methods on your own data: seeds, budgets, labels"),
    "evidence": ("detcon_d2.quickstart.evidence", "compare methods over several seeds on built-in images"),
}
"""Name -> module whose ``main(argv)`` returns the exit status or None, and what the command does. A module is imported only when its
command is called, so that ``generate_masks`` never imports torch."""


def main(argv: list[str] | None = None) -> int | None:
    """Run the command that the first argument names with the rest; returns the exit status, None for 0."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {command:<16} {text}" for command, (_, text) in COMMANDS.items()]
        print("usage: detcon_d2 COMMAND ...", "", "commands:", *lines, "", "'detcon_d2 COMMAND --help' explains a command.", sep="\n")
        return 0
    if name == "--version":
        print(f"detcon_d2 {detcon_d2.__version__}")
        return 0
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {similar[0]}?" if similar else "'detcon_d2 --help' lists the commands."
        print(f"detcon_d2: {name} is not a command. {hint}", file=sys.stderr)
        return 2
    # The name that argparse and error messages show; spawned processes get it too.
    sys.argv = [f"detcon_d2 {name}", *arguments]
    return importlib.import_module(COMMANDS[name][0]).main(arguments)
