"""``python -m detcon_d2`` is the console command ``detcon_d2``."""

import sys

from detcon_d2.cli.main import main

# Spawned processes import this module again, under another name.
if __name__ == "__main__":
    sys.exit(main())
