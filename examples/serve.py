"""A server on the bundled model in a process of its own, asked once by the `openai` client; then it is stopped."""

import base64
import io
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from openai import OpenAI

from vlm_anchors import scenes

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
command = [sys.executable, "-m", "vlm_anchors", "serve", "--model", "scenes", "--method", "clva", "--port", str(port)]
server = subprocess.Popen(command)
try:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.2)
    picture = io.BytesIO()
    scenes.render(scenes.from_objects(["fork", "cup", "bowl"])).save(picture, "PNG")
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Is there a cup in the image?"},
    ]
    client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused")
    answer = client.chat.completions.create(
        model="scenes", messages=[{"role": "user", "content": content}], max_tokens=8
    )
    print("Is there a cup in the image?", answer.choices[0].message.content)
    print("method:", answer.method, "effects:", answer.effects)
finally:
    server.send_signal(signal.SIGTERM)
    server.wait(60)
