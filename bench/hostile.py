"""Deep, huge and malformed requests for bench/fuzz.py, as the bytes that go over the wire.

Case `number` of a `seed` is always the same request, so a run can go on where it was cut off. Bodies are
made from /openapi.json: a valid one of each route, with one to three of its fields replaced.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

SAY = [{"role": "user", "content": "a"}]
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": SAY,
        "max_tokens": 2,
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "auto",
        "stop": ["x"],
        "logit_bias": {"5": 1},
        "metadata": {"a": "b"},
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"a": 1},
    },
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "stop": "x", "logprobs": 1},
    "/v1/responses": {
        "input": SAY,
        "max_output_tokens": 2,
        "tools": [{"type": "function", **FUNCTION}],
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "messages": SAY,
        "max_tokens": 2,
        "system": [{"type": "text", "text": "a"}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
    },
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [5, 6]},
    "/v1/responses/input_tokens": {"input": SAY},
    "/v1/messages/count_tokens": {"messages": SAY},
    "/v1/embeddings": {"input": ["a"]},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v2/rerank": {"query": "a", "documents": ["b"]},
    "/v1/batches": {"input_file_id": "file-x", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/v1/fine_tuning/jobs": {
        "model": "default",
        "training_file": "file-x",
        "hyperparameters": {"n_epochs": 1},
    },
}
BOUNDED = {"max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"}  # no long answers

SMALL = [
    "null", "true", "false", "0", "-1", "-0.0", "1e308", "1e-400", "1e400", "NaN", "Infinity", "-Infinity",
    "9223372036854775808", "-9223372036854775809", "18446744073709551616", "2147483648", "0.1", '""', '" "',
    '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '"\\ud83d\\ude00"', '"\ufeff"', '"\u202e"',
    '"\\n\\r\\u0085"', '"null"', '"-1"', '"NaN"', '"../../etc/passwd"', '"{{7*7}}"', '"<|im_end|>"', "[]",
    "{}", "[[]]", "[null]", '[""]', '{"": null}', '{"a": 1, "a": 2}', '[{"role": "user"}]', '{"type": "x"}',
    '{"$ref": "#"}', '[1, "a"]', '{"type": "function"}', '{"role": null, "content": null}',
    '[{"type": "text"}]', '{"type": "json_schema"}',
    '{"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}}', '"default:x"',
    '"\u00e9\u4e2d\U0001f642"',
]  # fmt: skip


def repeated(piece: str, size: int) -> str:
    return piece * (size // len(piece))


def large(draw: random.Random) -> str:
    """The text of one deep, long or wide value."""
    depth = draw.choice([60, 65, 200, 255, 1_000, 10_000, 100_000])
    count = draw.choice([1_000, 20_001, 100_000])
    size = draw.choice([10_000, 100_000, 1_000_000, 3_000_000])
    kinds: list[Callable[[], str]] = [
        lambda: "[" * depth + "]" * depth,
        lambda: "[" * depth,
        lambda: '{"a":' * depth + "1" + "}" * depth,
        lambda: '{"items":' * depth + "{}" + "}" * depth,
        lambda: "1" + "0" * draw.choice([19, 20, 400, 5_000, 100_000]),
        lambda: "-" + "9" * draw.choice([19, 20, 400, 5_000]),
        lambda: "0." + "1" * draw.choice([400, 100_000]),
        lambda: "1e" + "9" * draw.choice([3, 400]),
        lambda: json.dumps(
            repeated(draw.choice(["a", "word ", "é", "\\", '"', "\n", "🙂", "[", "\x00"]), size)
        ),
        lambda: '"' + repeated(draw.choice(["\\ud800", "\\u0000", "\\/"]), size) + '"',
        lambda: "[" + "1," * count + "1]",
        lambda: "[" + '"a",' * count + '"a"]',
        lambda: "[" + "{}," * count + "{}]",
        lambda: "[" + '{"role":"user","content":"a"},' * (count // 10) + '{"role":"user","content":"a"}]',
        lambda: "{" + ",".join(f'"k{n}":1' for n in range(count)) + "}",
        lambda: json.dumps({"type": "json_schema", "json_schema": {"name": "x", "schema": schema(draw)}}),
        lambda: json.dumps(schema(draw)),
    ]
    return draw.choice(kinds)()


def schema(draw: random.Random) -> Any:
    """A JSON schema of the unkind sort."""
    loop: dict[str, Any] = {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    return draw.choice(
        [
            {"type": "string", "maxLength": 10**9},
            {"type": "string", "minLength": -(10**9)},
            {"type": "array", "items": {"$ref": "#"}, "minItems": 10**6},
            loop,
            {"$ref": "#/nowhere"},
            {"$ref": 5},
            {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(10_000)}},
            {"enum": list(range(20_000))},
            {"enum": []},
            {"enum": "x"},
            {"type": []},
            {"type": {"a": 1}},
            {"type": "string", "pattern": "(a?){50}a{50}"},
            {"type": "string", "pattern": "("},
            {"type": "object", "patternProperties": {"^(a|b){9999}$": {}}},
            {"properties": []},
            {"type": "object", "required": [[]]},
            {"maxLength": 1.5},
            {"maxLength": 1e300},
            {"pattern": 7},
            {"type": "object", "properties": {"a": None}},
            {"anyOf": []},
            {"allOf": [{}] * 500},
            {"const": {"a": [1]}},
        ]
    )  # fmt: skip


# ------------------------------------------------------------------ requests


@dataclass(frozen=True, slots=True)
class Case:
    """`data` goes over the wire as it is. `cut`: the client sends no more, though more is announced."""

    name: str
    data: bytes
    cut: bool = False


class Cases:
    """Requests to the routes of one OpenAPI document, by number. `existing`: ids of objects that exist."""

    def __init__(self, document: dict[str, Any], seed: int, existing: dict[str, str] | None = None) -> None:
        self.document, self.seed, self.existing = document, seed, existing or {}
        self.operations = [
            (method.upper(), path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        self.json_paths = [path for method, path, _ in self.operations if method == "POST" and path in VALID]

    def make(self, number: int) -> Case:
        draw = random.Random(f"{self.seed} {number}")
        kinds = [self._field] * 11 + [self._text, self._head, self._address, self._form, self._framing]
        return draw.choice(kinds)(draw)

    def _field(self, draw: random.Random) -> Case:
        """A valid body but for one to three fields."""
        path = draw.choice(self.json_paths)
        text, names = replaced(draw, copy.deepcopy(VALID[path]), self._fields(path))
        return Case(f"POST {path} {', '.join(names)}", posted(path, text.encode("utf-8", "surrogatepass")))

    def _fields(self, path: str) -> list[str]:
        content = self.document["paths"][path]["post"]["requestBody"]["content"]
        body = next(iter(content.values()))["schema"]
        while "$ref" in body:
            body = self.document["components"]["schemas"][body["$ref"].rsplit("/", 1)[-1]]
        return sorted(body.get("properties", {}))

    def _text(self, draw: random.Random) -> Case:
        """A body that is no JSON, or barely."""
        path = draw.choice(self.json_paths)
        whole = json.dumps(VALID[path]).encode()
        bodies = {
            "empty": b"", "blank": b" \n", "half": whole[: draw.randrange(len(whole))], "twice": whole * 2,
            "bom": b"\xef\xbb\xbf" + whole, "utf-16": whole.decode().encode("utf-16"),
            "latin": b'{"prompt": "\xe9"}', "utf-8 broken": whole[:-1] + b', "x": "\xff\xfe\xc0\x80"}',
            "control": whole[:-1] + b', "x": "\x00\x1f"}', "comment": b"/* */" + whole,
            "trailing comma": whole[:-1] + b",}", "gzip": b"\x1f\x8b\x08\x00" + whole,
            "twice a name": whole[:-1] + b"," + whole[1:], "a list": b"[" + whole + b"]",
            "random": draw.randbytes(300), "alone": draw.choice(SMALL).encode("utf-8", "surrogatepass"),
            "large": large(draw).encode(),
        }  # fmt: skip
        name = draw.choice(sorted(bodies))
        return Case(f"POST {path} body: {name}", posted(path, bodies[name]))

    def _head(self, draw: random.Random) -> Case:
        """Odd header fields around a valid body."""
        path = draw.choice(self.json_paths)
        fields = [
            "content-type: text/plain", "content-type: application/json; charset=utf-16", "content-type:",
            "content-type: multipart/form-data", "content-type: application/json\x00",
            "content-encoding: gzip", "content-type: multipart/form-data; boundary=" + "x" * 500,
            "content-encoding: br, gzip, x", "accept: nothing/at-all", "accept-encoding: \x01",
            "authorization: Bearer", "authorization: Bearer \xff", "authorization: Basic " + "A" * 4000,
            "x-api-key: \xe4\xf6", "x-request-id: " + "x" * 9000, "x-request-id: \x1b[31m",
            "x-request-id: a\tb", "x-request-timeout: -1", "x-request-timeout: 1e400",
            "x-request-timeout: NaN", "x-request-timeout: " + "9" * 400, "x-request-timeout: soon",
            "priority: u=9", "host: evil.example", "host:", "host: [::1", "origin: null", "origin: http://[",
            "cookie: " + "a=b;" * 3000, "traceparent: 00-0-0-0", "traceparent: " + "f" * 200,
            "anthropic-version: \x7f", "anthropic-beta: a,b,,", "expect: 100-continue", "expect: nothing",
            "connection: upgrade\r\nupgrade: websocket", "range: bytes=-1", 'if-none-match: "',
            "x-forwarded-for: " + "1.1.1.1," * 900, "no colon at all", ": no name", "a b: c",
            "x: 1\r\n folded", "x: \r\r\n", "last-event-id: x", 'forwarded: for="', "te: trailers",
            "x-\xe9: 1", "sec-fetch-site: cross-site", "openai-organization: \u00fc",
            "user-agent: " + "é" * 200,
        ]  # fmt: skip
        chosen = draw.sample(fields, draw.choice([1, 1, 2]))
        data = json.dumps(VALID[path]).encode()
        return Case(f"POST {path} {chosen}"[:200], posted(path, data, chosen))

    def _address(self, draw: random.Random) -> Case:
        """Any route, its path and query filled with what nobody expects."""
        method, path, operation = draw.choice(self.operations)
        strange = [
            "%00", "%ff", "..%2f..", "%0d%0a", "a" * 7000, "%F0%9F%99%82", "-1", "null", "%25", ";",
            "%ed%a0%80",
        ]  # fmt: skip
        exists = self.existing.get(path.split("{")[0])
        target = path
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                value = exists if exists and draw.random() < 0.5 else draw.choice(strange)
                target = target.replace("{" + parameter["name"] + "}", value)
        values = [*strange, "", "0", "1e9", "9" * 400, "true", "NaN", "99999999999999999999"]
        query = [
            f"{p['name']}={draw.choice(values)}"
            for p in operation.get("parameters", [])
            if p["in"] == "query" and draw.random() < 0.7
        ]
        query += draw.sample(["%", "a=%zz", "limit=1&limit=x", "=", "&&&"], draw.choice([0, 0, 1]))
        target += "?" + "&".join(query) if query else ""
        method = draw.choice([method] * 6 + ["HEAD", "PUT", "PATCH", "OPTIONS", "TRACE", "X" * 30])
        body = json.dumps(VALID.get(path, {})).encode() if method == "POST" else b""
        if path == "/v1/files" and method == "POST":
            return self._form(draw)
        return Case(f"{method} {target}"[:200], request(method, target, body))

    def _form(self, draw: random.Random) -> Case:
        """An upload whose form is odd."""
        name = draw.choice(
            [
                '"a.jsonl"',
                '"../../x"',
                '"\\"',
                "a",
                '"' + "x" * 3000 + '"',
                '"\u00e9\x00"',
                '""',
                "*=UTF-8''%ff",
            ]
        )  # fmt: skip
        purpose = draw.choice(["batch", "fine-tune", "", "x", "\x00", "a" * 100_000, "user_data"])
        content = draw.choice(
            [b"", b"{}\n", b"\xff" * 1000, b"[" * 100_000, b"\n" * 50_000, b'{"custom_id": 1}\n']
        )
        end = draw.choice(["--b--\r\n", "--b\r\n", "", "--b--", "--c--\r\n"])
        form = (
            (
                f'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
                f'--b\r\ncontent-disposition: form-data; name="file"; filename={name}\r\n\r\n'
            ).encode()
            + content
            + b"\r\n"
            + end.encode()
        )
        if draw.random() < 0.2:
            form = (
                b"".join(
                    [
                        f'--b\r\ncontent-disposition: form-data; name="f{n}"\r\n\r\nx\r\n'.encode()
                        for n in range(2000)
                    ]
                )
                + form
            )
        kind = draw.choice(
            ["multipart/form-data; boundary=b"] * 5
            + ["multipart/form-data", "multipart/form-data; boundary="]
        )
        return Case(f"POST /v1/files {name[:40]} {purpose[:20]!r}", request("POST", "/v1/files", form, kind))

    def _framing(self, draw: random.Random) -> Case:
        """Bodies that end early or late, are announced twice, or come in strange pieces."""
        path = draw.choice(self.json_paths)
        data = json.dumps(VALID[path]).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        head += "content-type: application/json\r\n"
        chunked = b"transfer-encoding: chunked\r\n\r\n"
        size = f"{len(data):x}\r\n".encode()
        bodies = {
            "half a body": (f"content-length: {len(data) + 9}\r\n\r\n".encode() + data, True),
            "a body too long": (b"content-length: 3\r\n\r\n" + data, False),
            "length and chunks": (b"content-length: 3\r\n" + chunked + size + data + b"\r\n0\r\n\r\n", False),
            "two lengths": (b"content-length: 3\r\ncontent-length: 4\r\n\r\n" + data, False),
            "negative": (b"content-length: -1\r\n\r\n" + data, False),
            "no number": (b"content-length: 1e3\r\n\r\n" + data, False),
            "huge": (b"content-length: " + b"9" * 30 + b"\r\n\r\n" + data, True),
            "no length": (b"\r\n" + data, False),
            "chunk too short": (chunked + b"ffffff\r\n" + data, True),
            "chunk no number": (chunked + b"zz\r\n" + data, False),
            "chunk negative": (chunked + b"-1\r\n" + data, False),
            "chunk huge": (chunked + b"f" * 20 + b"\r\n" + data, True),
            "chunks of one byte": (
                chunked + b"".join(b"1\r\n%c\r\n" % c for c in data) + b"0\r\n\r\n",
                False,
            ),
            "chunk with trailer": (chunked + size + data + b"\r\n0\r\nx: y\r\n\r\n", False),
            "unknown coding": (
                b"transfer-encoding: gzip, chunked\r\n\r\n" + size + data + b"\r\n0\r\n\r\n",
                False,
            ),
            "expect": (f"expect: 100-continue\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data, False),
            "pipelined": (
                f"content-length: {len(data)}\r\n\r\n".encode() + data + b"GET /live HTTP/1.1\r\n\r\n",
                False,
            ),
            "half a head": (b"content-le", True),
        }
        name = draw.choice(sorted(bodies))
        rest, cut = bodies[name]
        return Case(f"POST {path} framing: {name}", head.encode() + rest, cut)


def replaced(draw: random.Random, body: dict[str, Any], names: list[str]) -> tuple[str, list[str]]:
    """The JSON of a body in which one to three values are hostile, and which fields those are."""
    texts: dict[str, str] = {}
    fields = []
    for mark in ("@@0@@", "@@1@@", "@@2@@")[: draw.choice([1, 1, 1, 2, 3])]:
        place, key = _place(draw, body, names)
        value = draw.choice(SMALL) if draw.random() < 0.85 else large(draw)
        if key in BOUNDED and value.strip("0123456789") == "":
            value = "2"
        if isinstance(place, list):
            place[key] = mark
        else:
            place[key] = mark
        texts[mark] = value
        fields.append(f"{key}={value[:30]}")
    text = json.dumps(body)
    for mark, value in texts.items():
        text = text.replace(f'"{mark}"', value)
    return text, fields


def _place(draw: random.Random, body: dict[str, Any], names: list[str]) -> tuple[Any, Any]:
    """A field of the body itself, or one further in."""
    if draw.random() < 0.6 or not (inner := list(_inner(body))):
        return body, draw.choice(names or sorted(body))
    return draw.choice(inner)


def _inner(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        yield value, key
        yield from _inner(item)


def posted(path: str, data: bytes, fields: list[str] = ()) -> bytes:  # type: ignore[assignment]
    return request("POST", path, data, "application/json", fields)


def request(
    method: str, target: str, data: bytes = b"", kind: str = "application/json", fields: list[str] = ()
) -> bytes:  # type: ignore[assignment]
    """Of HTTP/1.1; the fields given stand instead of those of the same name."""
    own = {
        "host": "localhost",
        "connection": "close",
        "content-type": kind,
        "content-length": str(len(data)),
    }
    given = {field.partition(":")[0].lower() for field in fields}
    lines = [
        f"{method} {target} HTTP/1.1",
        *(f"{name}: {own[name]}" for name in own if name not in given),
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + data
