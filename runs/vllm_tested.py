"""Notes in results/vllm_cpu.json that the tests inside vLLM passed: when, at which commit, with which versions.

`make test-vllm` runs it after the tests, in their environment. Words after its name say how they were run otherwise.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

from vlm_anchors.provenance import provenance

FILE = Path(__file__).parent.parent / "results" / "vllm_cpu.json"


def main() -> None:
    named = ("vllm-cpu", "torch", "transformers")
    stack = {name: importlib.metadata.version(name) for name in named}
    tests = {"command": " ".join(sys.argv[1:]) or "make test-vllm", "stack": stack, **provenance("cpu")}
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**before, "tests": tests}, indent=1) + "\n")


if __name__ == "__main__":
    main()
