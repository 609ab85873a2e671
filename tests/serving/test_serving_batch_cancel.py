"""A batch that is cancelled while its broken lines are written down."""

from __future__ import annotations

import asyncio
import json
import threading

from test_serving_joined import CHAT, front, upstreams

from steelyard.serving.base.store import ObjectStore


def test_who_cancels_while_lines_are_checked_is_heard(monkeypatch, tmp_path):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    extend, writing, goes_on = ObjectStore.extend, threading.Event(), threading.Event()

    def held(*args):
        writing.set()
        goes_on.wait(20)
        return extend(*args)

    monkeypatch.setattr(ObjectStore, "extend", held)
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT})
    file = {"file": ("in.jsonl", f"{line}\nno json\n".encode())}
    asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}

    async def run(servers):
        async with front(servers) as (client, served):
            made = (await client.post("/v1/files", data={"purpose": "batch"}, files=file)).json()
            batch = (await client.post("/v1/batches", json={**asked, "input_file_id": made["id"]})).json()
            assert await asyncio.to_thread(writing.wait, 20)
            # The order's own look at the store would wait behind what is held.
            batches = served.stores.batches
            stored = batches.live[batch["id"]]
            batches.live[batch["id"]] = stored.with_shown(status="cancelling", cancelling_at=1)
            goes_on.set()
            while (told := (await client.get(f"/v1/batches/{batch['id']}")).json())["status"] == "cancelling":
                await asyncio.sleep(0.05)
            return told

    with upstreams({}) as servers:
        told = asyncio.run(run(servers))
    assert told["status"] == "cancelled" and told["request_counts"]["completed"] == 0
