"""Who may ask: names, web pages and kinds of body, before any key."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from steelyard.errors import WrongUse
from steelyard.serving import ServeSettings
from steelyard.serving.base.guard import Guard
from steelyard.serving.base.keys import KeyRing

EVIL = "https://evil.example"
APP = "https://app.example"
ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
CHAT = "/v1/chat/completions"


async def answer(request):
    return JSONResponse({"ok": True}, headers={"x-steelyard-ignored": "a"})


ROUTES = [Route(path, answer, methods=["GET", "POST", "DELETE"]) for path in ("/live", CHAT, "/v1/files")]


def client(bind="127.0.0.1", host="localhost:8000", key=None, **names):
    access = ServeSettings(**names).access(bind)
    guard = Guard(Starlette(routes=ROUTES), KeyRing(key), access)
    return TestClient(guard, base_url=f"http://{host}")


def test_a_web_page_cannot_use_a_default_service(tiny):
    """DNS rebinding, a foreign page's fetch and its form, on the real application."""
    rebound = {"host": "evil.example"}
    for method, path in [("GET", "/v1/models"), ("GET", "/live"), ("DELETE", "/v1/files/file-1")]:
        refused = httpx.request(method, tiny.url + path, headers=rebound)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
        assert "--allowed-host" in refused.json()["error"]["message"] and refused.headers["x-request-id"]
    for headers in ({"origin": EVIL}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        refused = httpx.post(tiny.url + CHAT, json=ASK, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
    plain = httpx.post(tiny.url + CHAT, content=b"{}", headers={"content-type": "text/plain"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (415, "unsupported_media_type")
    dialect = httpx.post(tiny.url + "/v1/messages", json=ASK, headers={"origin": EVIL})
    assert dialect.status_code == 403 and dialect.json()["type"] == "error"
    assert httpx.post(tiny.url + CHAT, json=ASK, headers={"origin": tiny.url}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:9999", 200),
        ("localhost.:80", 200),
        ("127.0.0.1:8000", 200),
        ("127.8.9.1", 200),
        ("[::1]:8000", 200),
        ("models.example", 403),
        ("127.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("evil.example#localhost", 403),
        ("192.168.1.5:8000", 403),
        ("0.0.0.0:8000", 403),
        ("", 403),
    ],
)
def test_names_on_loopback(host, status):
    assert client().get("/live", headers={"host": host}).status_code == status


def test_an_allowed_name_and_where_names_are_not_looked_at():
    named = client(allowed_host=["Models.Example:443"])
    assert named.get("/live", headers={"host": "models.example:8443"}).status_code == 200
    assert named.get("/live", headers={"host": "evil.example"}).status_code == 403
    outside = client(bind="0.0.0.0", key="k", host="10.0.0.7:8000")
    assert outside.get("/live").status_code == 200
    strict = client(bind="0.0.0.0", key="k", host="10.0.0.7", allowed_host=["models.example"])
    assert strict.get("/live").status_code == 403
    assert strict.get("/live", headers={"host": "0.0.0.0:8000"}).status_code == 200


@pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])
def test_an_allowed_page_may_ask_with_a_key_and_a_foreign_one_may_not(bind):
    service = client(bind=bind, key="secret", cors_origin=[APP + "/"])
    preflight = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    allowed = service.options(CHAT, headers=preflight)
    assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == APP
    assert "POST" in allowed.headers["access-control-allow-methods"]
    assert "x-stainless-os" in allowed.headers["access-control-allow-headers"]
    key = {"authorization": "Bearer secret"}
    told = service.post(CHAT, json=ASK, headers={"origin": APP, "sec-fetch-site": "cross-site", **key})
    assert told.status_code == 200 and told.headers["access-control-allow-origin"] == APP
    exposed = told.headers["access-control-expose-headers"]
    assert "x-request-id" in exposed and "x-ratelimit-remaining-tokens" in exposed
    keyless = service.post(CHAT, json=ASK, headers={"origin": APP})
    assert keyless.status_code == 401 and keyless.headers["access-control-allow-origin"] == APP
    foreign = service.options(CHAT, headers={**preflight, "origin": EVIL})
    assert foreign.status_code == 403 and "access-control-allow-origin" not in foreign.headers


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        (CHAT, "application/json; charset=utf-8", b"{}", 200),
        (CHAT, "multipart/form-data; boundary=x", b"{}", 415),
        (CHAT, "application/x-www-form-urlencoded", b"", 415),
        (CHAT, None, b"{}", 415),
        (CHAT, None, b"", 200),
        ("/v1/files", "multipart/form-data; boundary=x", b"--x--", 200),
        ("/v1/files", "text/plain", b"--x--", 415),
    ],
)
def test_kinds_of_body(path, kind, body, status):
    headers = {"content-type": kind} if kind else {}
    assert client().post(path, content=body, headers=headers).status_code == status


@pytest.mark.parametrize(
    "names",
    [{"allowed_host": ["https://a.example"]}, {"cors_origin": ["app.example"]}, {"cors_origin": [""]}],
)
def test_what_is_no_name_or_origin_is_wrong_use(names):
    with pytest.raises(WrongUse):
        ServeSettings(**names).access("127.0.0.1")
