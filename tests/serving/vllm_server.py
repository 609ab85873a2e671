"""Stands where vLLM's server would: its command line, socket, key and words. Run as a module `vllm`.

Says the ids 5, 6, 7, 5, ... The prompt CRASH ends it, SLOW is answered slowly, and
who leaves it is written into the file LEFT. Not here: a model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

CRASH, SLOW = [71, 71, 71], [72, 72, 72]
LOGPROBS = {"token_id:5": -0.5, "token_id:6": -1.5, "token_id:7": -2.5}


def interpreter(place: Path) -> Path:
    """A Python that has a package `vllm`: this file. LEFT is `place/left`."""
    package = place / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    shutil.copy(__file__, package / "api_server.py")
    file = place / "python"
    file.write_text(f'#!/bin/sh\nLEFT={place}/left PYTHONPATH={place} exec {sys.executable} "$@"\n')
    file.chmod(0o755)
    return file


class Handler(BaseHTTPRequestHandler):
    def address_string(self):
        return "unix"

    def log_message(self, *words):
        pass

    def do_GET(self):
        text = 'vllm:kv_cache_usage_perc{engine="0"} 0.25\n' if self.path == "/metrics" else ""
        self.answer(200, text, "text/plain")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            return self.answer(401, '{"error": "Unauthorized"}')
        if "prompt_logprobs" in body:
            return self.score(body)
        if body["prompt"] == CRASH:
            os._exit(9)
        self.answer(200, None, "text/event-stream")
        try:
            self.stream(body)
        except BrokenPipeError:
            with open(os.environ["LEFT"], "a", encoding="utf-8") as file:
                file.write("left\n")

    def stream(self, body):
        if body.get("structured_outputs") == {"regex": "(a"}:
            return self.tell({"error": {"message": "no regex: (a", "code": 400}})
        for place in range(body["max_tokens"]):
            time.sleep(0.05 if body["prompt"] == SLOW else 0)
            choice = {"index": 0, "token_ids": [5 + place % 3], "text": "x\u2028y", "finish_reason": None}
            if "logprobs" in body:
                choice["logprobs"] = {"token_logprobs": [-0.5], "top_logprobs": [LOGPROBS]}
            if place + 1 == body["max_tokens"]:
                choice["finish_reason"] = "length"
            self.tell({"choices": [choice]})
        self.tell({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 4}}})
        self.wfile.write(b"data: [DONE]\n\n")

    def score(self, body):
        place = {"rank": 2, "logprob": -1.0}, {"rank": 1, "logprob": -0.25}
        places = [{str(token): place[0], "9999": place[1]} for token in body["prompt"][1:]]
        self.answer(200, json.dumps({"choices": [{"prompt_logprobs": [None, *places]}]}))

    def tell(self, chunk):
        """Like vLLM, with characters as they are: a text may hold any that ends a line elsewhere."""
        self.wfile.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def answer(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()
        if text is not None:
            self.wfile.write(text.encode())


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


def main():
    if "--seed" in sys.argv:  # whatever a real one would not start with
        sys.exit("ValueError: no such seed")
    Server(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()


if __name__ == "__main__":
    main()
