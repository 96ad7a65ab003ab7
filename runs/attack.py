"""Attacks this package for a few minutes and counts what held: results/attack.json.        python runs/attack.py [SECONDS]

kills     a run of `eval` is killed at random moments and taken up again; its records equal those of a whole run
fuzz      command lines and files of tests/test_properties.py, with many more examples
images    damaged and dear images: each is read or refused within a bound of time
folders   model and adapter folders that bring code along: nothing of them runs
"""

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

SEED = 0
SLOW = 5.0
"""Seconds of processor time within which any image must be read or refused."""


def kills(seconds, place):
    """(kills, runs that ended, records that differ from those of a run that nobody killed)."""
    from front import save_tiny

    from vlm_anchors.evaluation.runner.bundled import export

    model, scenes = save_tiny(place / "model"), export(place / "scenes", images=4)
    command = [
        sys.executable,
        str(ROOT / "tests" / "eval_worker.py"),
        str(model),
        str(scenes / "pope"),
        str(scenes / "images"),
    ]
    subprocess.run([*command, str(place / "whole")], check=True, capture_output=True)
    rng, ends, done, killed, differing = random.Random(SEED), time.monotonic() + seconds, 0, 0, 0
    while time.monotonic() < ends:
        out = place / f"run{done}"
        while True:
            process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            limit = rng.uniform(4, 40) if time.monotonic() < ends else None
            try:
                process.wait(limit)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
        done += 1
        differing += records(out) != records(place / "whole")
    return {"kills": killed, "runs": done, "runs that differ": differing}


def records(run):
    from vlm_anchors.evaluation.reporting.runs import read_run

    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in read_run(run).records]
    return sorted(rows, key=lambda row: (row["id"], row["method"]))


def fuzz(times):
    """The property tests with so many times their examples."""
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "tests/test_properties.py"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "VLM_ANCHORS_FUZZ": str(times)}, capture_output=True, text=True
    )
    outcome = done.stdout.strip().splitlines()[-1]
    return {"times the examples of the tests": times, "outcome": outcome, "exit code": done.returncode}


def tiff(pages):
    """A TIFF of many pages of one pixel each; Pillow's own writer takes minutes for it."""
    shown, length = 8, 2 + 9 * 12 + 4  # where the one pixel stands; bytes of a page's directory
    tags = ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, shown), (277, 1), (278, 1), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    starts = [10 + length * page for page in range(pages)]
    chain = (struct.pack("<H", len(tags)) + entries + struct.pack("<I", after) for after in [*starts[1:], 0])
    return struct.pack("<2sHI", b"II", 42, starts[0]) + b"\0\0" + b"".join(chain)


def images(seconds):
    """Random damage to images of every format, and images that are small to store and dear to read."""
    from PIL import Image

    from vlm_anchors.errors import BadImage
    from vlm_anchors.inputs.images import read_image

    rng, bases = random.Random(SEED), []
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI"):
        file = io.BytesIO()
        picture.save(file, kind)
        bases.append(file.getvalue())
    tried = refused = faults = 0
    slowest, ends = 0.0, time.monotonic() + seconds
    frames, file = [Image.new("L", (1, 1), shade) for shade in (0, 255)] * 5_000, io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    queue = [tiff(50_000), file.getvalue()]
    for size in ((1, 80_000_000), (80_000_000, 1), (20_000, 20_000)):
        file = io.BytesIO()
        Image.new("1", size).save(file, "PNG")
        queue.append(file.getvalue())
    while time.monotonic() < ends or queue:
        data = bytearray(queue.pop() if queue else rng.choice(bases))
        if tried >= 5:
            for _ in range(rng.randrange(1, 12)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            data = data[: rng.choice([len(data), rng.randrange(len(data))])]
        tried, began = tried + 1, time.process_time()
        try:
            read_image(bytes(data))
        except BadImage:
            refused += 1
        except Exception:
            faults += 1
        slowest = max(slowest, time.process_time() - began)
    counts = {"tried": tried, "refused": refused, "other errors": faults}
    return {**counts, f"took more than {SLOW:g} processor seconds": int(slowest > SLOW)}


def folders():
    """Hostile folders of every kind (tests/test_security.py)."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "tests/test_security.py",
        "-k",
        "folder or pickle or adapter",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {"outcome": done.stdout.strip().splitlines()[-1], "exit code": done.returncode}


def main(seconds=120.0):
    import torch

    from vlm_anchors.provenance import provenance

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        counts = {
            "images": images(seconds / 4), "kills": kills(seconds / 2, Path(place)), "folders": folders(),
            "fuzz": fuzz(max(int(seconds / 60), 1)),
        }  # fmt: skip
    held = not (
        counts["kills"]["runs that differ"] or counts["images"]["other errors"] or counts["folders"]["exit code"]
        or counts["fuzz"]["exit code"]
    )  # fmt: skip
    found = {"command": f"python runs/attack.py {seconds:g}", "seed": SEED, **provenance("cpu"), "held": held, **counts}
    (ROOT / "results" / "attack.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(counts, indent=1))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
