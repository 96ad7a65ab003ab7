"""Shape checks on, network off, and the fixtures every test file shares."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

install_import_hook("vlm_anchors", "shape_checks.shapes_only")
