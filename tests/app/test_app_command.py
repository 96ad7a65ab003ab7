"""`vlm-anchors app` as a command: it calls nobody, leaves nothing, and says what is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys

from test_served import free_port, send

from vlm_anchors.apps.cli import main

WATCHED = """
import signal, socket, sys
# A shell that runs the tests in the background has them, and so this, ignore Ctrl+C.
signal.signal(signal.SIGINT, signal.default_int_handler)
ordinary = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONNECTED TO", address, flush=True)
    return ordinary(self, address)
socket.socket.connect = connect
from vlm_anchors.apps.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_command(tiny_folder, tmp_path):
    """A folder of random weights; the page comes, no address elsewhere is called, no file is left behind, Ctrl+C ends it."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    running = subprocess.Popen(
        [sys.executable, "-c", WATCHED, "app", "--model", str(tiny_folder), "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env={**clean, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    said = iter(running.stdout.readline, "")
    first = next((line for line in said if line.startswith(("Open", "CONNECTED"))), "")
    assert first == f"Open http://127.0.0.1:{port} in a browser. Ctrl+C stops.\n"
    status, body = send(port, "GET", "/")
    assert status == 200
    assert b"Does the model look" in body
    assert b"googleapis" not in body
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=60)
    assert "CONNECTED" not in rest and "Traceback" not in rest
    assert running.returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_taken_port_is_a_sentence(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["app", "--port", str(taken.getsockname()[1])]) == 2
    assert re.fullmatch(r"Cannot listen on 127.0.0.1, port \d+: .* Choose another .*--port.\n", capsys.readouterr().err)


def test_a_wrong_folder_is_a_sentence(tmp_path, capsys):
    assert main(["app", "--model", str(tmp_path), "--port", str(free_port())]) == 2
    summary = capsys.readouterr().err
    assert "is no model folder: it has no config.json" in summary
    assert "Traceback" not in summary


def test_without_gradio(monkeypatch, capsys):
    import importlib.util

    ordinary = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gradio" else ordinary(name, *rest)
    )
    assert main(["app"]) == 2
    assert capsys.readouterr().err == "The app needs gradio: pip install 'vlm-anchors[app]'.\n"
