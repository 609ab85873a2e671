"""/v1/feedback: off unless asked for; a key rates its own answers, sees and takes back its own ratings."""

from __future__ import annotations

import asyncio

from faking import faked

from steelyard.serving import new_key, ratings_stored
from steelyard.trust import load_keys

DAY_S = 86400.0
CHAT = [{"role": "user", "content": "Hi"}]
BAD = {"rating": "bad", "messages": CHAT, "answer": "xx", "correction": "Hello"}


def test_it_is_off_unless_the_recipe_asks(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))

    async def run():
        async with faked(tokenizer_folder) as service:
            refused = await service.json("POST", "feedback", 403, json=BAD)
            await service.json("GET", "feedback", 403)
            return refused["error"]

    error = asyncio.run(run())
    assert error["code"] == "feedback_off" and "refresh" in error["message"]
    assert ratings_stored("tiny") == []


def test_an_answer_is_rated_by_its_id_or_with_its_text(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    file = tmp_path / "keys.json"
    first, other = ({"authorization": f"Bearer {new_key(file, name)}"} for name in ("a", "b"))

    async def run():
        async with faked(tokenizer_folder, keys=file, feedback_keep_s=DAY_S) as service:
            asked = {"input": "Hi", "instructions": "Be kind.", "max_output_tokens": 2}
            answer = await service.json("POST", "responses", json=asked, headers=first)
            good = {"rating": "good", "id": answer["id"]}
            one = await service.json("POST", "feedback", json=good, headers=first)
            assert (one["object"], one["rating"], one["response"]) == ("feedback", "good", answer["id"])
            await service.json("POST", "feedback", 404, json=good, headers=other)
            two = await service.json("POST", "feedback", json=BAD, headers=other)
            wrong = (
                {"rating": "fine", "id": "x"}, {"rating": "good"}, {"rating": "good", "messages": CHAT},
                {**good, "answer": "x"}, {**good, "rater": "me"}, {**BAD, "id": answer["id"]},
            )  # fmt: skip
            for body in wrong:
                await service.json("POST", "feedback", 400, json=body, headers=first)
            listed = await service.json("GET", "feedback", headers=first)
            assert [one["id"] for one in listed["data"]] == [one["id"]]
            stored = ratings_stored("tiny")
            await service.json("DELETE", f"feedback/{two['id']}", 404, headers=first)
            await service.json("DELETE", f"feedback/{two['id']}", headers=other)
            said = answer["output"][-1]["content"][0]["text"]
            return said, stored, ratings_stored("tiny")

    said, stored, left = asyncio.run(run())
    of_id, of_text = stored
    assert of_id["messages"] == [{"role": "system", "content": "Be kind."}, *CHAT]
    assert of_id["answer"] == said and of_id["rating"] == "good"
    assert {name: of_text[name] for name in BAD} == BAD
    assert of_id["rater"] != of_text["rater"] and left == [of_id]


def test_at_guarded_ratings_lie_sealed(tokenizer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_STATE", str(tmp_path))
    key = tmp_path / "key"

    async def run():
        settings = {"trust": "guarded", "key_file": str(key), "feedback_keep_s": DAY_S}
        async with faked(tokenizer_folder, **settings) as service:
            secret = {**BAD, "correction": "a secret of somebody"}
            await service.json("POST", "feedback", json=secret)

    asyncio.run(run())
    files = [path for path in (tmp_path / "serving").rglob("*") if path.is_file()]
    assert files and not any(b"a secret of" in path.read_bytes() for path in files)
    (one,) = ratings_stored("tiny", load_keys("guarded", str(key), tmp_path))
    assert one["correction"] == "a secret of somebody"
