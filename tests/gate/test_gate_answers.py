"""Answers of four dialects, whole and streamed, good and broken; what an endpoint does about errors."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from drifts import serving
from hypothesis import given
from hypothesis import strategies as st

from steelyard.errors import Lacking
from steelyard.gate.base.answers import (
    DIALECTS,
    Answer,
    Token,
    events,
    read_answer,
    read_message,
    read_response,
)
from steelyard.gate.base.endpoint import CHAT, COMPLETE, MESSAGES, RESPONSES, TRIES, Endpoint
from steelyard.gate.base.pieces import answer_ids

# ------------------------------------------------------------------ shapes


def chat(text="hi", **message):
    return {"choices": [{"message": {"content": text, **message}, "finish_reason": "stop"}]}


def test_a_chat_is_read_with_its_counts():
    document = chat() | {"usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    assert read_answer(document) == Answer(text="hi", finish="stop", prompt_tokens=7, completion_tokens=2)
    assert read_answer(chat() | {"usage": None}).prompt_tokens is None


TOKENS = ({"token": "a"}, {"token": "a", "logprob": None}, {"token": "a", "logprob": -1, "bytes": [300]})
BROKEN = [
    None, [], "text", 7, {}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": {"0": 1}},
    {"choices": [{}]}, {"choices": [{"message": "hi"}]}, {"error": {"message": "no"}}, chat() | {"usage": 3},
    {"choices": [{"text": "a", "logprobs": [1]}]},
    *({"choices": [{"text": "a", "logprobs": {"content": [token]}}]} for token in TOKENS),
]  # fmt: skip


@pytest.mark.parametrize("document", BROKEN)
def test_what_is_no_completion_is_an_error_and_no_crash(document):
    answer = read_answer(document)
    assert answer.text is None and answer.error == "not a completion"


@pytest.mark.parametrize(
    "document", [None, [], {}, {"output": 3}, {"output": [{}]}, {"content": [{}]}, {"content": 3}]
)
def test_what_is_no_response_and_no_message_is_an_error_too(document):
    assert read_response(document).error == read_message(document).error == "not a completion"


def test_no_text_is_an_error_unless_tools_are_called():
    assert read_answer(chat(None)).error == "no content"
    assert read_answer(chat("")).text == "" and read_answer(chat("")).error is None
    call = {"function": {"name": "f", "arguments": "{}"}}
    called = read_answer(chat(None, tool_calls=[call]))
    assert (called.text, called.tool_calls, called.error) == ("", (call,), None)


def test_tokens_are_read_with_their_bytes_and_rivals():
    entry = {
        "token": "a",
        "logprob": -1,
        "bytes": [],
        "top_logprobs": [{"token": "b", "logprob": -2}],
        "id": True,
    }
    document = chat()
    document["choices"][0]["logprobs"] = {"content": [{**entry, "id": 5}, {"token": "c", "logprob": -3}]}
    one, two = read_answer(document).tokens
    assert one == Token(text="a", logprob=-1.0, raw=b"", top=(("b", -2.0),), id=5)
    assert two == Token(text="c", logprob=-3.0)


def test_older_completions_leave_the_first_token_without_a_number():
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -2]}
    answer = read_answer({"choices": [{"text": "ab", "logprobs": logprobs}]})
    assert answer.tokens == (Token(text="b", logprob=-2.0),)
    assert read_answer({"choices": [{"text": "", "logprobs": {"tokens": []}}]}).tokens is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 5}, 5),
        ({"input_tokens": 5, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3}, 28),
        ({"input_tokens": 5, "cache_read_input_tokens": None}, 5),
        ({"cache_read_input_tokens": 20}, None),
        ({}, None),
    ],
)
def test_a_message_counts_what_a_cache_held(usage, expected):
    assert (
        read_message({"content": [{"type": "text", "text": "x"}], "usage": usage}).prompt_tokens == expected
    )


@pytest.mark.parametrize(
    ("status", "finish"), [("incomplete", "length"), ("completed", "stop"), (None, "stop")]
)
def test_a_response_says_why_it_ended(status, finish):
    thought = {"type": "reasoning", "summary": []}
    part = {"type": "output_text", "text": "x"}
    item = {"type": "message", "content": [part, {"type": "refusal"}, part]}
    answer = read_response({"output": [thought, item], "status": status, "usage": {"input_tokens": 3}})
    assert (answer.text, answer.finish, answer.prompt_tokens, answer.completion_tokens) == (
        "xx",
        finish,
        3,
        None,
    )


def test_a_message_says_why_it_ended():
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]
    ends = [
        read_message({"content": blocks, "stop_reason": r}).finish for r in ("max_tokens", "end_turn", None)
    ]
    assert ends == ["length", "stop", "stop"]


# ------------------------------------------------------------------ streams: cut anywhere, read as the whole

PIECES = st.lists(st.text(max_size=5), min_size=1, max_size=6)
COUNTS = st.integers(0, 99)


def lines_of(chunks):
    return [": ping", "", *(f"data: {json.dumps(c)}" for c in chunks), "event: done", "data: [DONE]"]


def joined(path, chunks):
    return DIALECTS[path].read(DIALECTS[path].join(events(lines_of(chunks))))


@given(PIECES, COUNTS, COUNTS, st.sampled_from(["stop", "length"]))
def test_a_streamed_chat_is_the_whole_one(pieces, used, made, finish):
    def chunk(text, **more):
        token = {"content": [{"token": text, "logprob": -1}]}
        return {"choices": [{"index": 0, "delta": {"content": text}, "logprobs": token, **more}]}

    usage = {"prompt_tokens": used, "completion_tokens": made}
    other = {"choices": [{"index": 1, "delta": {"content": "another choice"}}]}
    last = {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    answer = joined(CHAT, [*map(chunk, pieces), other, last, {"choices": [], "usage": usage}])
    assert (answer.text, answer.finish) == ("".join(pieces), finish)
    assert (answer.prompt_tokens, answer.completion_tokens) == (used, made)
    assert answer.tokens == tuple(Token(text=p, logprob=-1.0) for p in pieces)


@given(PIECES)
def test_a_streamed_text_is_the_whole_one(pieces):
    chunks = [{"choices": [{"text": p, "logprobs": {"tokens": [p], "token_logprobs": [-2]}}]} for p in pieces]
    answer = joined(COMPLETE, [*chunks, {"choices": [{"text": "", "finish_reason": "length"}]}])
    assert answer.text == "".join(pieces) and answer.finish == "length" and answer.prompt_tokens is None
    assert answer.tokens == tuple(Token(text=p, logprob=-2.0) for p in pieces)


@given(PIECES, COUNTS, COUNTS)
def test_a_streamed_response_is_what_its_pieces_say(pieces, used, made):
    """Not what the last event repeats: the client has shown the pieces."""
    deltas = [{"type": "response.output_text.delta", "delta": p} for p in pieces]
    usage = {"input_tokens": used, "output_tokens": made}
    repeated = [{"type": "message", "content": [{"type": "output_text", "text": "something else"}]}]
    ended = {
        "type": "response.completed",
        "response": {"status": "completed", "usage": usage, "output": repeated},
    }
    answer = joined(
        RESPONSES, [{"type": "response.created", "response": {"status": "in_progress"}}, *deltas, ended]
    )
    assert (answer.text, answer.prompt_tokens, answer.completion_tokens) == ("".join(pieces), used, made)


@given(PIECES, COUNTS, COUNTS)
def test_a_streamed_message_has_the_last_counts(pieces, used, made):
    start = {"type": "message_start", "message": {"usage": {"input_tokens": used, "output_tokens": 1}}}
    deltas = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": p}} for p in pieces]
    end = {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": made}}
    kept = {"usage": {"input_tokens": None}}  # what is not said again stays
    answer = joined(MESSAGES, [start, *deltas, end, kept])
    assert (answer.text, answer.finish) == ("".join(pieces), "length")
    assert (answer.prompt_tokens, answer.completion_tokens) == (used, made)


def test_a_line_that_holds_no_json_is_refused():
    with pytest.raises(ValueError, match="Expecting"):
        events(["data: {broken"])
    assert events([": comment", "event: x", "data:", "data: [DONE]", 'data:{"a": 1}']) == [{"a": 1}]


# ------------------------------------------------------------------ from a text back to its ids


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    from steelyard.model import Tokenizer

    return Tokenizer(tokenizer_folder)


def pieces_of(tokenizer, ids, raw=False):
    return tuple(
        Token(
            text=tokenizer.decode([i], skip_special=False),
            logprob=-1.0,
            raw=tokenizer.token_bytes(i) if raw else None,
        )
        for i in ids
    )


@given(st.text(min_size=1, max_size=20))
def test_bytes_name_the_ids_of_any_text(tokenizer, text):
    """Also where the answer's tokens are not those that its text would be cut into."""
    ids = [i for c in text for i in tokenizer.encode(c)]
    answer = Answer(text=tokenizer.decode(ids), tokens=pieces_of(tokenizer, ids, raw=True), finish="length")
    if "\ufffd" not in answer.text:
        assert answer_ids(tokenizer, answer) == tuple(ids)


@given(st.text(alphabet="ansewr the", min_size=1, max_size=20).filter(str.strip))
def test_texts_name_the_ids_where_tokens_agree(tokenizer, text):
    ids = tokenizer.encode(text)
    assert answer_ids(tokenizer, Answer(text=text, tokens=pieces_of(tokenizer, ids))) == tuple(ids)
    assert answer_ids(tokenizer, Answer(text=text, tokens=pieces_of(tokenizer, [*ids, ids[0]]))) == ()


@pytest.mark.parametrize(
    ("beyond", "finish", "aligned"),
    [
        (None, "length", True), (0, "length", True), (1, "length", False),
        (1, "stop", True), (2, "stop", False), (-1, "stop", False),
    ],
)  # fmt: skip
def test_a_count_of_tokens_must_be_that_of_the_text(tokenizer, beyond, finish, aligned):
    """The end token may be counted where the answer ended by itself."""
    ids = tokenizer.encode("the answers")
    count = None if beyond is None else len(ids) + beyond
    answer = Answer(text="the answers", finish=finish, completion_tokens=count)
    assert answer_ids(tokenizer, answer) == (tuple(ids) if aligned else ())


def test_the_end_token_is_no_part_of_an_answer(tokenizer):
    ids = tokenizer.encode("answers")
    end = next(iter(tokenizer.eos_ids))
    tokens = pieces_of(tokenizer, [*ids, end])
    assert answer_ids(tokenizer, Answer(text="answers", tokens=tokens, finish="stop")) == tuple(ids)
    assert answer_ids(tokenizer, Answer(text="answers", tokens=tokens, finish="length")) == ()
    assert answer_ids(tokenizer, Answer(text="")) == answer_ids(tokenizer, Answer(text=None)) == ()
    assert answer_ids(tokenizer, Answer(text="a\ufffd")) == ()  # part of a character names no id


# ------------------------------------------------------------------ an endpoint


@contextmanager
def served(reply, models=(200, {"data": [{"id": "m"}]}), well=(404, {})):
    """A server whose POSTs are `reply(path, body) -> (status, document or text[, headers])`, and which says
    `well` of itself; yields URL and requests."""
    requests: list[tuple[str, dict]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.write(*(models if self.path == "/v1/models" else well))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, body))
            self.write(*reply(self.path, body))

        def write(self, status, document, headers=()):
            data = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_): ...

    with serving(Handler) as url:
        yield url, requests


def asked(url, work, **more):
    async def run():
        async with Endpoint(url=url, **more) as endpoint:
            return await work(endpoint), endpoint

    return asyncio.run(run())


USER = [{"role": "user", "content": "?"}]


@pytest.fixture
def impatient(monkeypatch):
    """No pause between tries."""

    async def sleep(_):
        return None

    monkeypatch.setattr("steelyard.gate.base.endpoint.asyncio.sleep", sleep)


@pytest.mark.parametrize(
    ("status", "tries"), [(400, 1), (404, 1), (408, TRIES), (429, TRIES), (503, TRIES), (501, 1)]
)
def test_what_may_pass_is_asked_again_and_what_may_not_is_not(impatient, status, tries):
    with served(lambda path, body: (status, {})) as (url, requests):
        answer, _ = asked(url, lambda e: e.chat(USER, 4))
    assert answer.error == f"HTTP {status}" and len(requests) == tries


def test_a_queue_that_says_when_to_come_again_is_no_failure(impatient):
    """Oftener than an error is tried again; where it says no time it is an error like others."""
    full = [(429, {}, {"Retry-After": "7"})] * (2 * TRIES)
    replies = iter([*full, (503, {}), *full, (200, chat("late"))])
    with served(lambda path, body: next(replies)) as (url, requests):
        answer, _ = asked(url, lambda e: e.chat(USER, 4))
    assert answer.text == "late" and len(requests) == 4 * TRIES + 2


def test_a_queue_is_not_waited_for_beyond_all_patience(impatient):
    with served(lambda path, body: (429, {}, {"Retry-After": "100000"})) as (url, requests):
        answer, _ = asked(url, lambda e: e.chat(USER, 4))
    assert answer.error == "HTTP 429" and len(requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("well", "text"), [(200, "late"), (503, None)])
def test_a_slow_answer_is_waited_for_while_the_server_is_well(monkeypatch, well, text, stream):
    monkeypatch.setattr("steelyard.gate.base.endpoint.TIMEOUT_S", 0.3)
    monkeypatch.setattr("steelyard.gate.base.endpoint.TRIES", 1)

    def late(path, body):
        time.sleep(1.5)
        word = 'data: {"choices": [{"delta": {"content": "late"}}]}\n\ndata: [DONE]\n\n'
        return (200, word) if stream else (200, chat("late"))

    with served(late, well=(well, {})) as (url, _):
        answer, _ = asked(url, lambda e: e.chat(USER, 4, stream=stream))
    assert answer.text == text and (text or answer.error == "ReadTimeout")


def test_the_answer_after_an_error_counts(impatient):
    replies = iter([(503, {}), (200, "no json"), (200, chat("late"))])
    with served(lambda path, body: next(replies)) as (url, requests):
        answer, _ = asked(url, lambda e: e.chat(USER, 4))
    assert answer.text == "late" and len(requests) == 3


def test_log_probabilities_that_are_refused_are_not_asked_again():
    with served(lambda path, body: (400, {}) if "logprobs" in body else (200, chat())) as (url, requests):

        async def twice(endpoint):
            return [await endpoint.chat(USER, 4, logprobs=True, top=2) for _ in range(2)]

        answers, endpoint = asked(url, twice)
    assert [a.text for a in answers] == ["hi", "hi"] and endpoint.logprobs is False
    assert [("logprobs" in b, "top_logprobs" in b) for _, b in requests] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_an_error_that_stays_without_log_probabilities_is_not_theirs():
    with served(lambda path, body: (422, {})) as (url, _):
        answer, endpoint = asked(url, lambda e: e.chat(USER, 4, logprobs=True))
    assert answer.error == "HTTP 422" and endpoint.logprobs is True


def test_a_request_says_what_was_asked_and_nothing_else():
    with served(lambda path, body: (200, chat())) as (url, requests):
        asked(url, lambda e: e.chat(USER, 4))
        asked(url, lambda e: e.chat(USER, 4, temperature=None, seed=0, more={"stop": ["x"]}), model="own")
        asked(url + "/v1/", lambda e: e.complete([1, 2], 3, seed=4))
        asked(url, lambda e: e.post(RESPONSES, {"input": "x"}))
    chat_body = {"model": "m", "messages": USER, "max_tokens": 4}
    assert requests[0] == (CHAT, chat_body | {"temperature": 0.0})
    assert requests[1] == (CHAT, chat_body | {"model": "own", "seed": 0, "stop": ["x"]})
    assert requests[2][0] == COMPLETE and requests[2][1]["prompt"] == [1, 2]
    assert {"temperature": 1.0, "top_p": 1.0, "seed": 4, "logprobs": 1}.items() <= requests[2][1].items()
    assert requests[3] == (RESPONSES, {"model": "m", "input": "x"})


def test_a_stream_that_comes_as_one_document_is_none():
    with served(lambda path, body: (200, chat())) as (url, requests):
        answer, _ = asked(url, lambda e: e.chat(USER, 4, stream=True))
    assert answer.error == "HTTP 501: no stream"
    assert requests[0][1]["stream_options"] == {"include_usage": True}
    text = 'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
    with served(lambda path, body: (200, text)) as (url, _):
        assert asked(url, lambda e: e.chat(USER, 4, stream=True))[0].text == "a"


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85", "\r\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_an_end_of_line_ends_an_event(sign, end):
    """JSON may hold other separators as they are: such an answer used to count as none."""
    document = json.dumps({"choices": [{"delta": {"content": f"a{sign}b"}}]}, ensure_ascii=False)
    with served(lambda path, body: (200, f"data: {document}{end}{end}data: [DONE]{end}{end}")) as (url, _):
        answer, _ = asked(url, lambda e: e.chat(USER, 4, stream=True))
    assert (answer.text, answer.error) == (f"a{sign}b", None)


def test_chats_are_counted_where_their_prompt_is_the_messages_alone():
    usage = {"usage": {"prompt_tokens": 9}}
    with served(lambda path, body: (200, chat() | usage)) as (url, _):

        async def several(endpoint):
            await endpoint.chat(USER, 4)
            await endpoint.chat(USER, 4, tools=[{"type": "function"}])
            await endpoint.chat(USER, 4, more={"stop": "x"})

        _, endpoint = asked(url, several)
    assert endpoint.counted == [(tuple(USER), 9)]


@pytest.mark.parametrize(
    ("models", "model", "length"),
    [
        ((200, {"data": [{"id": "a", "max_model_len": 512}, {"id": "b"}]}), "a", 512),
        ((200, {"data": [{"id": "a", "meta": {"n_ctx": 256}}]}), "a", 256),
        ((200, {"data": [{"id": "a", "max_model_len": "512"}]}), "a", None),
        ((200, {"data": [{"id": "a", "max_model_len": -1}]}), "a", None),
        ((200, {"data": []}), "default", None),
        ((200, {"models": []}), "default", None),
        ((404, {}), "default", None),
        ((200, "no json"), "default", None),
    ],
)
def test_the_card_of_the_model_that_is_asked(models, model, length):
    async def nothing(_):
        return None

    with served(lambda path, body: (200, chat()), models) as (url, _):
        _, endpoint = asked(url, nothing)
    assert endpoint.model == endpoint.card.id == model and endpoint.card.max_model_len == length
    assert endpoint.keeps_requests is False


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_one_clear_error(status):
    async def nothing(_):
        return None

    with (
        served(lambda path, body: (200, chat()), (status, {})) as (url, _),
        pytest.raises(Lacking, match="key"),
    ):
        asked(url, nothing)


@pytest.mark.parametrize(
    ("replies", "ids"),
    [
        ({"/tokenize": {"tokens": [1, 2]}}, [1, 2]),
        ({"/tokenize": {"tokens": ["a"]}}, None),
        ({"/tokenize": {"tokens": []}, "/apply-template": {"prompt": 3}}, None),
        ({"/tokenize": [1]}, None),
        ({}, None),
    ],
)
def test_shown_ids_are_numbers_or_none(replies, ids):
    def reply(path, body):
        return (200, replies[path]) if path in replies else (404, {})

    with served(reply) as (url, _):
        assert asked(url, lambda e: e.tokenize(USER))[0] == ids


def test_a_server_that_renders_at_one_route_and_encodes_at_another_shows_its_ids():
    def reply(path, body):
        if path == "/apply-template":
            return 200, {"prompt": "rendered"}
        shown = body.get("content") == "rendered" and body["add_special"] and body["parse_special"]
        return (200, {"tokens": [3, 4] if shown else []})

    with served(reply) as (url, _):
        assert asked(url, lambda e: e.tokenize(USER))[0] == [3, 4]


def test_items_are_asked_a_few_at_once_and_answered_in_order():
    busy, most = 0, 0

    async def ask(item):
        nonlocal busy, most
        busy, most = busy + 1, max(most, busy + 1)
        await asyncio.sleep(0)
        busy -= 1
        return item * 2

    async def run():
        return await Endpoint(url="http://127.0.0.1:1", concurrency=3).each(range(20), ask)

    assert asyncio.run(run()) == [n * 2 for n in range(20)] and most == 3
