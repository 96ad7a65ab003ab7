"""`python -m vlm_anchors`, and the command `vlm-anchors`."""

import sys

from .apps.cli import main

if __name__ == "__main__":
    sys.exit(main())
