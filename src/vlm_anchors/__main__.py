"""`python -m vlm_anchors`, and the command `vlm-anchors`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
