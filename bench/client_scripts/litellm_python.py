"""litellm of PyPI: as a library, and as a proxy in front of the service."""

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anthropic as claude
import httpx
import litellm
import openai
from checks import ANSWER, CALL, GREETING, URL, WEATHER, run

ASK = [{"role": "user", "content": GREETING}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
KEY = f"sk-{secrets.token_hex(32)}"  # the proxy does not start without one
OPENAI = {"model": "openai/default", "api_base": f"{URL}/v1", "api_key": "none", "num_retries": 0}
CONFIG = f"""
model_list:
  - model_name: default
    litellm_params: {{model: openai/default, api_base: {URL}/v1, api_key: none}}
  - model_name: words
    litellm_params: {{model: openai/text-embedding-3-small, api_base: {URL}/v1, api_key: none}}
  - model_name: claude-sonnet-4-5
    litellm_params: {{model: anthropic/claude-sonnet-4-5, api_base: {URL}, api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: {KEY}}}
"""


def chat():
    assert litellm.completion(**OPENAI, messages=ASK).choices[0].message.content == ANSWER


def stream():
    pieces = litellm.completion(**OPENAI, messages=ASK, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER


def tools():
    made = litellm.completion(**OPENAI, messages=[{"role": "user", "content": CALL}], tools=[TOOL])
    assert made.choices[0].message.tool_calls[0].function.name == "get_weather"


def structured():
    format = {"type": "json_schema", "json_schema": {"name": "place", "schema": WEATHER, "strict": True}}
    made = litellm.completion(**OPENAI, messages=ASK, response_format=format)
    assert made.choices[0].message.content == '{"city": "Paris"}'


def responses():
    made = litellm.responses(model="openai/default", api_base=f"{URL}/v1", api_key="none", input=GREETING)
    assert made.output[0].content[0].text == ANSWER


def embeddings():
    made = litellm.embedding(**{**OPENAI, "model": "openai/text-embedding-3-small"}, input=["a"])
    assert made.data[0]["embedding"]


def anthropic():
    where = {"model": "anthropic/claude-sonnet-4-5", "api_base": URL, "api_key": "none"}
    assert litellm.completion(**where, messages=ASK).choices[0].message.content == ANSWER
    pieces = litellm.completion(**where, messages=ASK, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == ANSWER


def proxied():
    return openai.OpenAI(base_url=PROXY, api_key=KEY, max_retries=0)


def proxy_chat():
    made = proxied().chat.completions.create(model="default", messages=ASK)
    assert made.choices[0].message.content == ANSWER


def proxy_stream():
    with proxied().chat.completions.stream(model="default", messages=ASK) as events:
        assert events.get_final_completion().choices[0].message.content == ANSWER


def proxy_tools():
    asked = [{"role": "user", "content": CALL}]
    made = proxied().chat.completions.create(model="default", messages=asked, tools=[TOOL])
    assert made.choices[0].message.tool_calls[0].function.name == "get_weather"


def proxy_responses():
    assert proxied().responses.create(model="default", input=GREETING).output_text == ANSWER


def proxy_embeddings():
    assert proxied().embeddings.create(model="words", input=["a"]).data[0].embedding


def proxy_messages():
    client = claude.Anthropic(base_url=PROXY, api_key=KEY, max_retries=0)
    made = client.messages.create(model="claude-sonnet-4-5", max_tokens=64, messages=ASK)
    assert made.content[0].text == ANSWER


def start_proxy(folder: str) -> tuple[subprocess.Popen, str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = Path(folder) / "config.yaml"
    config.write_text(CONFIG)
    command = [str(Path(sys.executable).with_name("litellm")), "--config", str(config)]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=sys.stderr, stderr=sys.stderr
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(int(os.environ.get("CLIENTS_WAIT_S", "300")) * 2):
        try:
            if httpx.get(f"{url}/health/liveliness").status_code == 200:
                return process, url
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.5)
    process.terminate()
    raise SystemExit("the proxy of litellm did not start")


run(chat, stream, tools, structured, responses, embeddings, anthropic)
with tempfile.TemporaryDirectory() as made:
    proxy, PROXY = start_proxy(made)
    try:
        run(proxy_chat, proxy_stream, proxy_tools, proxy_responses, proxy_embeddings, proxy_messages)
    finally:
        proxy.terminate()
        proxy.wait(30)
