"""A judge on 127.0.0.1 for the tests: an OpenAI-compatible server that says what it was asked."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer:
    """Answers 200 with `review` until `after` questions were asked, then what `then` holds: (status, body) or "hang up"."""

    def __init__(self, review="8 7\nBoth are good.", after=10**9, then=None, seconds=0.0):
        self.review, self.after, self.then, self.seconds = review, after, then, seconds
        self.asked, self.keys, self.bodies, self.paths = [], [], [], []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.handle_error = lambda *summary: None  # who asked may be killed meanwhile
        self.base = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                judge.bodies.append(body)
                judge.paths.append(self.path)
                judge.keys.append(self.headers.get("Authorization"))
                judge.asked.append(body["messages"][-1]["content"])
                time.sleep(judge.seconds)
                if len(judge.asked) <= judge.after:
                    return self.reply(200, {"choices": [{"message": {"content": judge.review}}]})
                if judge.then == "hang up":
                    return self.connection.close()
                return self.reply(*judge.then)

            def reply(self, status, summary):
                text = summary if isinstance(summary, bytes) else json.dumps(summary).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", judge.base.replace("/v1", "/elsewhere"))
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words):
                pass

        return Handler
