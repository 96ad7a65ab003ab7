"""Serving under load on this machine only, bounded: results/serving_load_cpu.json.

    python runs/serving_load.py --out results/serving_load_cpu.json

1. Throughput: the same captions (16 clients, 128 requests, 32 new tokens) through `transformers serve`, which answers one
   request at a time, and through `vlm-anchors serve`, plain and with CLVA; the three servers in turn, twice, in one run.
2. Mixed load: 32 clients, 500 requests of four methods, greedy and sampled, streamed and whole; a tenth hangs up midway and a
   twentieth is malformed. Every other greedy answer is compared with the one given alone; memory is read before and after.
"""

import argparse
import base64
import concurrent.futures
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai

from vlm_anchors import scenes
from vlm_anchors.models.load import BUNDLED_FOLDER
from vlm_anchors.provenance import provenance
from vlm_anchors.scenes.questions import POPE

CAPTION = "Please describe this image in detail."
METHODS = ("none", "clva", "clearsight", "vcd")
SCENES = list(scenes.sample(16))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A server in a process of its own, until the block ends."""

    def __init__(self, *command, name):
        self.port, self.name = free_port(), name
        self.command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
                return self
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"{self.command[:4]} did not start")

    def __exit__(self, *exc):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def client(self):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="unused", max_retries=0, timeout=300)

    def memory(self):
        """Resident bytes of the server."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def ours(method="none"):
    return Served(
        sys.executable, "-m", "vlm_anchors", "serve", "--model", "scenes", "--method", method, "--max-queue", "64",
        name="scenes",
    )  # fmt: skip


def theirs():
    program = str(Path(sys.executable).parent / "transformers")
    return Served(
        program, "serve", str(BUNDLED_FOLDER), "--device", "cpu", "--dtype", "float32", name=str(BUNDLED_FOLDER)
    )


def turns(seed, question):
    buffer = io.BytesIO()
    scenes.render(SCENES[seed]).save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def throughput(server, clients, requests, tokens):
    """Seconds for all requests, and the answers."""
    asked = [turns(i % 16, CAPTION) for i in range(requests)]
    api = server.client().chat.completions

    def one(messages):
        reply = api.create(model=server.name, messages=messages, max_tokens=tokens, temperature=0)
        return reply.choices[0].message.content

    one(asked[0])
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(one, asked))
    return time.monotonic() - began, answers


def mixed(server, clients, requests, seed=0):
    """Counts of what happened to each kind of request, and whether greedy answers equal those given alone."""
    draw = random.Random(seed)
    api = server.client().chat.completions
    plan = []
    for number in range(requests):
        kind = draw.choices(("greedy", "sampled", "cancelled", "malformed"), (0.6, 0.25, 0.1, 0.05))[0]
        question = draw.choice((CAPTION, POPE.format(a="a dog"), POPE.format(a="a cup")))
        plan.append((number, kind, draw.choice(METHODS), draw.randrange(16), question, draw.random() < 0.3))
    alone = {}
    for _, kind, method, image, question, _ in plan:
        key = (method, image, question)
        if kind == "greedy" and key not in alone:
            reply = api.create(model=f"scenes@{method}", messages=turns(image, question), max_tokens=24)
            alone[key] = reply.choices[0].message.content
    before = server.memory()

    def one(each):
        number, kind, method, image, question, stream = each
        ask = {"model": f"scenes@{method}", "messages": turns(image, question), "max_tokens": 24}
        for _ in range(200):
            try:
                if kind == "malformed":
                    api.create(**{**ask, "messages": [{"role": "wizard", "content": "x"}]})
                    return kind, "answered"
                if kind == "cancelled":
                    pieces = api.create(**ask, stream=True)
                    next(iter(pieces))
                    pieces.close()
                    return kind, "closed"
                more = {"temperature": 1.0, "seed": number} if kind == "sampled" else {}
                if stream:
                    chunks = list(api.create(**ask, **more, stream=True))
                    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
                else:
                    text = api.create(**ask, **more).choices[0].message.content
                right = kind == "sampled" or text == alone[method, image, question]
                return kind, "right" if right else "another answer"
            except openai.RateLimitError as error:
                time.sleep(min(float(error.response.headers["retry-after"]), 1.0))
            except openai.BadRequestError:
                return kind, "refused"
        return kind, "never answered"

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        ends = list(pool.map(one, plan))
    counts = {}
    for kind, end in ends:
        counts.setdefault(kind, {}).setdefault(end, 0)
        counts[kind][end] += 1
    plain = api.create(model="scenes", messages=turns(0, CAPTION), max_tokens=24)
    return {
        "clients": clients, "requests": requests, "seconds": time.monotonic() - began, "ends": counts,
        "memory before": before, "memory after": server.memory(), "effects of plain afterwards": plain.effects,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--mixed", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    servers = {"transformers serve": theirs, "plain": ours, "clva": lambda: ours("clva")}
    seconds = {name: [] for name in servers}
    texts = {}
    for _ in range(chosen.rounds):
        for name, make in servers.items():
            with make() as server:
                spent, texts[name] = throughput(server, 16, chosen.requests, 32)
                seconds[name].append(spent)
    rates = {name: chosen.requests / min(spent) for name, spent in seconds.items()}
    same = sum(a == b for a, b in zip(texts["plain"], texts["transformers serve"], strict=True))
    result = {
        **provenance("cpu"), "clients": 16, "requests": chosen.requests, "new tokens": 32, "seconds": seconds,
        "requests a second, best round": rates, "plain over transformers serve": rates["plain"] / rates["transformers serve"],
        "clva over transformers serve": rates["clva"] / rates["transformers serve"],
        "answers equal to transformers serve": same, "seed": 0,
    }  # fmt: skip
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps({key: result[key] for key in list(result)[-5:]}, indent=1), flush=True)
    with ours() as server:
        result["mixed load"] = mixed(server, 32, chosen.mixed)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result["mixed load"], indent=1))


if __name__ == "__main__":
    main()
