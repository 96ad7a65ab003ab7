"""Serving under load on this machine only, bounded: results/serving_load_cpu.json.

    python runs/serving_load.py --out results/serving_load_cpu.json [--parts throughput mixed]

1. Throughput: the same captions (16 clients, 128 requests, 32 new tokens) through `transformers serve`, which answers one
   request at a time, and through `vlm-anchors serve`, plain and with CLVA; the three servers in turn, twice, in one run.
2. Mixed load: 32 clients, 500 requests of four methods, greedy and sampled, streamed and whole; a tenth hangs up midway and a
   twentieth is malformed. Every other answer is compared with the one given alone, a sampled one under its own seed; the
   server's memory is read throughout, and its metrics at the end.
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
import threading
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
        for _ in range(6000):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
                return self
            except OSError:
                if self.process.poll() is not None:
                    break
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

    def metrics(self):
        """What its caches say of themselves."""
        page = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10).read().decode()
        lines = [line.rsplit(" ", 1) for line in page.splitlines() if line.startswith("vlm_anchors_cache")]
        return {name.removeprefix("vlm_anchors_cache_"): float(value) for name, value in lines}


class MemoryLog(threading.Thread):
    """The server's memory every second, until `stop`."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.seen, self.done = server, [], threading.Event()

    def run(self):
        while not self.done.wait(1.0):
            self.seen.append(self.server.memory())

    def stop(self):
        """Memory at ten equal distances in time."""
        self.done.set()
        self.join()
        return [self.seen[len(self.seen) * part // 10] for part in range(10)] if self.seen else []


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


def plan_of(requests, seed):
    """(number, kind, method, image, question, whether it is streamed) of each request."""
    draw = random.Random(seed)
    plan = []
    for number in range(requests):
        kind = draw.choices(("greedy", "sampled", "cancelled", "malformed"), (0.6, 0.25, 0.1, 0.05))[0]
        question = draw.choice((CAPTION, POPE.format(a="a dog"), POPE.format(a="a cup")))
        plan.append((number, kind, draw.choice(METHODS), draw.randrange(8), question, draw.random() < 0.3))
    return plan


def body_of(each):
    number, kind, method, image, question, _ = each
    ask = {"model": f"scenes@{method}", "messages": turns(image, question), "max_tokens": 24}
    return {**ask, "temperature": 1.0, "seed": number} if kind == "sampled" else ask


def text_of(api, ask, streamed):
    if not streamed:
        return api.create(**ask).choices[0].message.content
    chunks = list(api.create(**ask, stream=True))
    return "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)


def once(api, each):
    """What happens to a request: its text, or how it ended."""
    kind, ask = each[1], body_of(each)
    for _ in range(200):
        try:
            if kind == "malformed":
                return text_of(api, {**ask, "messages": [{"role": "wizard", "content": "x"}]}, False), "answered"
            if kind == "cancelled":
                pieces = api.create(**ask, stream=True)
                next(iter(pieces))
                pieces.close()
                return None, "closed"
            return text_of(api, ask, each[5]), "answered"
        except openai.RateLimitError as error:
            time.sleep(min(float(error.response.headers["retry-after"]), 1.0))
        except openai.BadRequestError:
            return None, "refused"
        except openai.APIError as error:
            return None, type(error).__name__
    return None, "never answered"


def mixed(server, clients, requests, seed=0):
    """Counts of what happened to each kind of request; answers are compared with those given alone."""
    api, plan = server.client().chat.completions, plan_of(requests, seed)
    for method in METHODS:  # the first request of a method loads what it needs
        text_of(api, body_of((0, "greedy", method, 0, CAPTION, False)), False)
    log = MemoryLog(server)
    before = server.memory()
    log.start()
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        ends = list(pool.map(lambda each: once(api, each), plan))
    seconds, during = time.monotonic() - began, log.stop()
    after = server.memory()
    plain = api.create(model="scenes", messages=turns(0, CAPTION), max_tokens=24)
    alone, counts = {}, {}
    for each, (text, end) in zip(plan, ends, strict=True):
        kind = each[1]
        if kind in ("greedy", "sampled") and end == "answered":
            key = each[1:5] if kind == "greedy" else each[:5]
            if key not in alone:
                alone[key] = text_of(api, body_of(each), False)
            end = "right" if text == alone[key] else "another answer"
        counts.setdefault(kind, {}).setdefault(end, 0)
        counts[kind][end] += 1
    return {
        "clients": clients, "requests": requests, "seconds": seconds, "ends": counts, "compared with": len(alone),
        "memory before": before, "memory during": during, "memory after": after, "caches": server.metrics(),
        "effects of plain afterwards": plain.effects,
    }  # fmt: skip


def compared(rounds, requests):
    """Part 1: seconds and rates of the three servers, and how many answers are the same."""
    servers = {"transformers serve": theirs, "plain": ours, "clva": lambda: ours("clva")}
    seconds = {name: [] for name in servers}
    texts = {}
    for _ in range(rounds):
        for name, make in servers.items():
            with make() as server:
                spent, texts[name] = throughput(server, 16, requests, 32)
                seconds[name].append(spent)
    rates = {name: requests / min(spent) for name, spent in seconds.items()}
    same = sum(a == b for a, b in zip(texts["plain"], texts["transformers serve"], strict=True))
    return {
        **provenance("cpu"), "clients": 16, "requests": requests, "new tokens": 32, "seconds": seconds,
        "requests a second, best round": rates, "plain over transformers serve": rates["plain"] / rates["transformers serve"],
        "clva over transformers serve": rates["clva"] / rates["transformers serve"],
        "answers equal to transformers serve": same, "seed": 0,
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--mixed", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=["throughput", "mixed"], default=["throughput", "mixed"])
    chosen = parser.parse_args()
    result = json.loads(chosen.out.read_text("utf-8")) if chosen.out.exists() else {}
    if "throughput" in chosen.parts:
        result |= compared(chosen.rounds, chosen.requests)
        chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        print(json.dumps({key: result[key] for key in result if "over" in key}, indent=1), flush=True)
    if "mixed" in chosen.parts:
        with ours() as server:
            made = mixed(server, 32, chosen.mixed)
        result["mixed load"] = {key: value for key, value in provenance("cpu").items() if key != "versions"} | made
        chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        print(json.dumps(result["mixed load"], indent=1))


if __name__ == "__main__":
    main()
