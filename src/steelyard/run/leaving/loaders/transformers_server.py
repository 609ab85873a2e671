"""transformers' own loading, template and greedy generation behind a small HTTP server on loopback.

`PYTHON -I transformers_server.py FOLDER SEQUENCES THREADS` under the interpreter that has transformers;
prints {"url"} once it has loaded, and ends when standard input does. It imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAIT_S = 0.02  # for others to join a batch


class Asked:
    """One chat and its answer."""

    def __init__(self, body):
        self.messages, self.most = body["messages"], int(body.get("max_tokens") or 256)
        self.done = threading.Event()
        self.answer: dict = {}


class Model:
    """Answers in batches, padded on the left; greedy, in float32."""

    def __init__(self, folder, sequences, threads):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        self.torch, self.sequences = torch, sequences
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = model.eval()
        self.waiting: queue.Queue[Asked] = queue.Queue()

    def run(self):
        while True:
            batch = [self.waiting.get()]
            while len(batch) < self.sequences:
                try:
                    batch.append(self.waiting.get(timeout=WAIT_S))
                except queue.Empty:
                    break
            try:
                self.answer(batch)
            except Exception as error:  # one bad batch must not end it
                for one in batch:
                    one.answer = {"error": f"{type(error).__name__}: {error}"[:300]}
            for one in batch:
                one.done.set()

    def answer(self, batch):
        texts = [
            self.tokenizer.apply_chat_template(one.messages, tokenize=False, add_generation_prompt=True)
            for one in batch
        ]
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with self.torch.inference_mode():
            out = self.model.generate(
                **inputs, do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
                max_new_tokens=max(one.most for one in batch), pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        for one, ids, mask in zip(batch, out, inputs["attention_mask"], strict=True):
            own = ids[length : length + one.most]
            text = self.tokenizer.decode(own, skip_special_tokens=True)
            one.answer = {
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": int(mask.sum()), "completion_tokens": len(own)},
            }


def handler(model):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            cards = {
                "object": "list",
                "data": [{"id": "default", "object": "model", "owned_by": "transformers"}],
            }
            self.reply(200, cards)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path != "/v1/chat/completions":
                return self.reply(404, {"error": "chats alone are answered"})
            asked = Asked(body)
            model.waiting.put(asked)
            asked.done.wait()
            return self.reply(200 if "error" not in asked.answer else 400, asked.answer)

        def reply(self, status, document):
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """No request is written down."""

    return Handler


def main():
    folder, sequences, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    answer = os.dup(1)
    os.dup2(2, 1)
    model = Model(folder, sequences, threads)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(model))
    threading.Thread(target=model.run, daemon=True).start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.write(answer, json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}"}).encode() + b"\n")
    os.close(answer)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
