"""Real clients against the service: which feature works, which is a documented refusal, which fails.

    python bench/clients.py --folder FOLDER [--install] [--only NAME ...] [--suite FOLDER] [--write]

--suite FOLDER runs the tests of a checkout of Open Responses too (its own packages and bun are the caller's).
--install puts the clients into FOLDER at the versions below (a virtual environment and npm packages; nothing
of this repository needs them). The service is the real application behind the real connections; its engine
does what a prompt says (`Use NAME {...}` is a call, an answer under a schema is an instance of it), so that
every client's road is taken and no model's mood is measured. All run in a network namespace
(counted_network.py) where one can be made: name look-ups and packets that leave are counted by client.
Exit 4 where a feature fails or something leaves, 5 where the clients are not there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counted_network

from steelyard.hardware import probe

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).parent / "client_scripts"
RESULT = Path(__file__).parent / "results/clients.json"
PYTHON = {
    "openai": "3.57.0", "anthropic": "2.14.0", "openai-agents": "0.24.0", "langchain": "1.5.2",
    "langchain-openai": "1.7.4", "langchain-anthropic": "1.7.10", "litellm[proxy]": "1.108.7",
}  # fmt: skip
NODE = {
    "openai": "6.49.0", "@anthropic-ai/sdk": "1.14.0", "@openai/agents": "0.20.0", "ai": "6.0.326",
    "@ai-sdk/openai": "3.0.141", "@ai-sdk/openai-compatible": "2.0.92", "@ai-sdk/anthropic": "3.0.140",
    "@langchain/openai": "1.5.8", "@langchain/core": "1.4.0", "@continuedev/openai-adapters": "1.37.0",
    "@openai/codex": "0.171.0", "@anthropic-ai/claude-code": "2.1.197", "zod": "4.6.7",
}  # fmt: skip
QUIET = {  # each client's own switch
    "DO_NOT_TRACK": "1", "OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_DOCS": "True",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1", "DISABLE_AUTOUPDATER": "1", "AI_SDK_LOG_WARNINGS": "false",
}  # fmt: skip
DOCUMENTED = {"image", "image-input"}  # features that are a 400 by docs/how-to/use-the-api.md
ALIASES = ("gpt-*", "claude-*", "text-embedding-3-small")
CONTEXT = 131_072  # prompts of agents at the terminal are long
CLIENT_S = 1800.0  # agents at the terminal think long on a busy machine
ANSWER = "Hello there."
TURN = "<|im_start|>"


# ------------------------------------------------------------------ the engine


def reply(prompt: str, schema: dict[str, Any] | None) -> str:
    """What the engine says to `prompt`, under `schema` where there is one."""
    if TURN not in prompt:  # no chat: a text to go on with
        return ANSWER
    role, _, last = prompt.split(TURN)[-2].partition("\n")
    done = last.partition("<tool_response>\n")[2].partition("\n</tool_response>")[0]
    call = None if done or role == "tool" else _call_in(last) or _about_weather(prompt, last)
    if schema is not None:
        return json.dumps(_under(schema, call, bool(done)))
    if call is not None:
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    return f"Done: {_plain(done)}" if done else ANSWER


def _plain(result: str) -> str:
    """The words of a tool's result, which some clients wrap."""
    return next((line for line in reversed(result.splitlines()) if line.strip()), "")


def _call_in(text: str) -> dict[str, Any] | None:
    for part in reversed(text.split("Use ")[1:]):
        name, _, rest = part.partition(" ")
        if rest.startswith("{"):
            arguments, _ = json.JSONDecoder().raw_decode(rest)
            return {"name": name, "arguments": arguments}
    return None


def _about_weather(prompt: str, last: str) -> dict[str, Any] | None:
    """A call of the first tool, where there is one for the question."""
    shown = prompt.partition("<tools>\n")[2].partition("\n")[0]
    if "weather" not in last or not shown.startswith("{"):
        return None
    function = json.loads(shown)["function"]
    return {"name": function["name"], "arguments": instance(function["parameters"], {})}


def _under(schema: dict[str, Any], call: dict[str, Any] | None, done: bool) -> Any:
    """An instance; of calls or a format, the one that is due; after a call the last of several tools."""
    parts = schema.get("$defs", {})
    format = parts.get("$format")
    if format is not None and call is None:
        return instance(format, parts)
    calls = schema["anyOf"][0] if format is not None else schema
    if calls.get("type") != "array":
        return instance(calls, parts)
    tools = calls["items"].get("anyOf", [calls["items"]])
    return [instance(tools[-1 if done else 0], parts) if call is None else call]


def instance(schema: dict[str, Any], parts: dict[str, Any]) -> Any:
    """The smallest plain instance; texts are a city."""
    if "$ref" in schema:
        return instance(parts[schema["$ref"].removeprefix("#/$defs/").split("/")[0]], parts)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    for among in ("anyOf", "oneOf", "allOf"):
        if among in schema:
            return instance(schema[among][0], parts)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        fields = schema.get("properties", {"city": {"type": "string"}})
        return {name: instance(field, parts) for name, field in fields.items()}
    if kind == "array":
        return [instance(schema["items"], parts)] * max(1, schema.get("minItems", 1))
    return {"string": "Paris", "integer": 1, "number": 1.5, "boolean": True, "null": None}[kind]


# ------------------------------------------------------------------ the service


@contextmanager
def service(record: Path | None = None) -> Iterator[str]:
    """The URL of the real application on a port of its own, in a thread; bodies go to `record`."""
    import uvicorn

    from steelyard.connections import Connections, bounded
    from steelyard.serving.base.errors import refusal
    from steelyard.serving.host.settings import ServeSettings
    from steelyard.serving.service.front import bind, url_of

    with tempfile.TemporaryDirectory(prefix="clients-") as home:
        os.environ["STEELYARD_STATE"] = home
        guard = _application(Path(home))
        listening = bind("127.0.0.1", 0)
        app = _recorded(guard.on(ServeSettings().access("127.0.0.1")), record)
        config = bounded(app, Connections(1024, refusal))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield url_of(listening)
        finally:
            server.should_exit = True
            thread.join()


def _application(home: Path) -> Any:
    sys.path.insert(0, str(ROOT / "tests/serving"))
    from scripted import ScriptedEngine, scripted

    from steelyard.model import resolve, to_hf

    class Obedient(ScriptedEngine):
        def submit(self, request: dict[str, Any], *more: Any, **named: Any) -> Any:
            prompt = self.tokenizer.decode(request["ids"], skip_special=False)
            grammar = request.get("grammar")
            self.text = reply(prompt, json.loads(grammar[1]) if grammar else None)
            return super().submit(request, *more, **named)

    folder = home / "model"
    to_hf(resolve("demo", "."), folder)
    made = scripted(folder, max_model_len=CONTEXT, aliases=ALIASES, clamp_max_tokens=True)
    made.engine.__class__ = Obedient
    made.served.encoder = _Words()
    return made.app


class _Words:
    """An encoder beside the model: vectors of nothing."""

    name, about = "words", SimpleNamespace(kind="embedding", dimensions=2, shorter=None, max_tokens=256)
    tokenizer = SimpleNamespace(encode_all=lambda texts: [[1, 2, 3] for _ in texts], vocab_size=99_999)

    @property
    def engine(self) -> _Words:
        return self

    def fitting(self, ids: Any, cut: Any, param: str) -> Any:
        return ids

    async def embed(self, batch: list[list[int]]) -> list[list[float]]:
        return [[0.6, 0.8] for _ in batch]


def _recorded(inner: Any, folder: Path | None) -> Any:
    """The application; each request's head and body become a file of `folder`."""
    if folder is None:
        return inner
    folder.mkdir(parents=True, exist_ok=True)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        data, status = bytearray(), []

        async def reading() -> Any:
            message = await receive()
            data.extend(message.get("body", b""))
            return message

        async def sending(message: Any) -> None:
            status.append(message.get("status"))
            await send(message)

        await inner(scope, reading, sending)
        head = {name.decode(): value.decode() for name, value in scope["headers"]}
        line = {"method": scope["method"], "path": scope["path"], "query": scope["query_string"].decode()}
        body = json.loads(data) if data.startswith(b"{") else data.decode(errors="replace")
        name = f"{len(list(folder.iterdir())):04d}.json"
        text = json.dumps({**line, "status": status[:1], "headers": head, "body": body}, indent=1)
        (folder / name).write_text(text)

    return application


# ------------------------------------------------------------------ the clients


@dataclass(frozen=True)
class Client:
    """`of`: its packages, for their versions; `lines` runs it and yields its features."""

    name: str
    of: tuple[str, ...]
    lines: Callable[[Path, dict[str, str]], list[dict[str, Any]]]
    node: bool = False
    version: str = ""  # of what is no package

    def versions(self) -> str:
        if self.version:
            return self.version
        pins = NODE if self.node else PYTHON
        return ", ".join(f"{name.partition('[')[0]} {pins[name]}" for name in self.of)


def script(name: str) -> Callable[[Path, dict[str, str]], list[dict[str, Any]]]:
    def run(folder: Path, env: dict[str, str]) -> list[dict[str, Any]]:
        if name.endswith(".mjs"):  # Node looks for packages beside the script
            for file in SCRIPTS.glob("*.mjs"):
                shutil.copy(file, folder / "node")
            command = ["node", str(folder / "node" / name)]
        else:
            command = [str(folder / "python/bin/python"), str(SCRIPTS / name)]
        ran = _ran(command, env)
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"feature"')]
        if ran.returncode:
            lines.append({"feature": "whole", "outcome": "fails", "why": ran.stderr[-600:]})
        return lines

    return run


def _ran(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, cwd=env["HOME"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=CLIENT_S,
    )  # fmt: skip


CODEX = """
model = "gpt-5"
model_provider = "here"
check_for_update_on_startup = false
[analytics]
enabled = false
[features]
plugins = false
[model_providers.here]
name = "here"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "HERE_KEY"
"""


def codex(folder: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    home = Path(env["HOME"]) / "codex"
    home.mkdir()
    (home / "config.toml").write_text(CODEX.format(url=env["CLIENTS_URL"]))
    words = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    command = [str(folder / "node/node_modules/.bin/codex"), *words]
    more = env | {"CODEX_HOME": str(home), "HERE_KEY": "none"}
    call = 'Use exec_command {"cmd": "echo 20 degrees"}'
    return _at_the_terminal(command, more, call)


def claude_code(folder: Path, env: dict[str, str]) -> list[dict[str, Any]]:
    more = env | {
        "ANTHROPIC_BASE_URL": env["CLIENTS_URL"], "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CONFIG_DIR": str(Path(env["HOME"]) / "claude"),
    }  # fmt: skip
    binary = folder / "node/node_modules/@anthropic-ai/claude-code-linux-x64/claude"
    command = [str(binary), "--allowedTools", "Bash(echo:*)", "--model", "claude-sonnet-4-5", "-p"]
    call = 'Use Bash {"command": "echo 20 degrees", "description": "Says the weather"}'
    return _at_the_terminal(command, more, call)


def _at_the_terminal(command: list[str], env: dict[str, str], call: str) -> list[dict[str, Any]]:
    lines = []
    for feature, text, wanted in (("answer", "Say hello.", ANSWER), ("tool", call, "Done: 20 degrees")):
        ran = _ran([*command, text], env)
        works = ran.returncode == 0 and wanted in ran.stdout
        why = {} if works else {"why": (ran.stdout[-300:] + ran.stderr[-600:])}
        lines.append({"feature": feature, "outcome": "works" if works else "fails", **why})
    return lines


def suite(checkout: Path) -> Client:
    """The conformance tests of Open Responses as a client: their ids are its features."""

    def run(folder: Path, env: dict[str, str]) -> list[dict[str, Any]]:
        words = [
            "--base-url",
            f"{env['CLIENTS_URL']}/v1",
            "--api-key",
            "none",
            "--model",
            "default",
            "--json",
        ]
        ran = subprocess.run(
            ["bun", "run", "bin/compliance-test.ts", *words], cwd=checkout, env=env, capture_output=True,
            text=True, timeout=CLIENT_S,
        )  # fmt: skip
        return [
            {"feature": one["id"], "outcome": "works" if one["status"] == "passed" else _absent(one["id"]),
             "why": str(one.get("errors"))[:600]}
            for one in json.loads(ran.stdout)["results"]
        ]  # fmt: skip

    specification = max(one.name for one in (checkout / "public/openapi").iterdir() if one.is_dir())
    return Client("Open Responses, conformance tests", (), run, version=specification)


def _absent(id: str) -> str:
    """What the docs say is not there: sight, and the transport that the specification leaves free."""
    return "refused" if id in DOCUMENTED or id.startswith("websocket-") else "fails"


CLIENTS = (
    Client("openai, Python", ("openai",), script("openai_python.py")),
    Client("openai, Node", ("openai",), script("openai_node.mjs"), node=True),
    Client("anthropic, Python", ("anthropic",), script("anthropic_python.py")),
    Client("anthropic, Node", ("@anthropic-ai/sdk",), script("anthropic_node.mjs"), node=True),
    Client("OpenAI Agents SDK, Python", ("openai-agents",), script("agents_python.py")),
    Client("OpenAI Agents SDK, Node", ("@openai/agents",), script("agents_node.mjs"), node=True),
    Client(
        "LangChain, Python", ("langchain", "langchain-openai", "langchain-anthropic"),
        script("langchain_python.py"),
    ),
    Client(
        "LangChain, Node (n8n, LibreChat)", ("@langchain/openai",), script("langchain_node.mjs"), node=True,
    ),
    Client("LiteLLM and its proxy", ("litellm[proxy]",), script("litellm_python.py")),
    Client(
        "Vercel AI SDK", ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic"),
        script("vercel_node.mjs"), node=True,
    ),
    Client("Continue", ("@continuedev/openai-adapters",), script("continue_node.mjs"), node=True),
    Client("Codex", ("@openai/codex",), codex, node=True),
    Client("Claude Code", ("@anthropic-ai/claude-code",), claude_code, node=True),
)  # fmt: skip


def install(folder: Path) -> None:
    """Both kinds at the pinned versions; npm runs no script of a package."""
    if not (folder / "python/bin/python").exists():
        venv.create(folder / "python", with_pip=True)
    pins = [f"{name}=={version}" for name, version in PYTHON.items()]
    subprocess.run([str(folder / "python/bin/pip"), "install", "-q", *pins], check=True)
    node = folder / "node"
    node.mkdir(parents=True, exist_ok=True)
    (node / "package.json").write_text(json.dumps({"private": True, "dependencies": NODE}))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=node, check=True)


@dataclass
class Row:
    client: str
    versions: str
    features: dict[str, str]
    why: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def failed(self) -> bool:
        return bool(self.left) or any(outcome == "fails" for outcome in self.features.values())


def rows(args: argparse.Namespace, counts: Any) -> Iterator[Row]:
    folder, wanted = args.folder, args.only
    clients = (*CLIENTS, *([suite(args.suite)] if args.suite else []))
    with service(args.record) as url, tempfile.TemporaryDirectory(prefix="clients-") as homes:
        for at, client in enumerate(clients):
            if wanted and not any(word.lower() in client.name.lower() for word in wanted):
                continue
            home = Path(homes) / str(at)
            home.mkdir()
            env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "CLIENTS_URL": url}
            lines = client.lines(folder, env | QUIET)
            row = Row(client.name, client.versions(), {line["feature"]: _outcome(line) for line in lines})
            row.why = {line["feature"]: line["why"] for line in lines if "why" in line}
            if counts is not None:
                taken = counts.take()
                row.left = sorted({*taken.lookups, *taken.packets})
            yield row


def _outcome(line: dict[str, Any]) -> str:
    if line["outcome"] != "refused":
        return str(line["outcome"])
    documented = line["feature"] in DOCUMENTED or line["feature"].startswith("websocket-")
    return "documented refusal" if documented else "fails"


def main() -> int:
    args = arguments()
    if args.install and os.environ.get(counted_network.INSIDE) is None:
        install(args.folder)
    if not (args.folder / "node/node_modules").exists():
        print(f"no clients in {args.folder}: --install puts them there", file=sys.stderr)
        return 5
    counts = None
    if (
        unable := counted_network.unable() if os.environ.get(counted_network.INSIDE) is None else None
    ) is None:
        counted_network.enter()
        counts = counted_network.count()
    else:
        print(f"packets are not counted: {unable}", file=sys.stderr)
    made = []
    for row in rows(args, counts):
        made.append(row)
        _show(row)
    if args.write:
        RESULT.write_text(json.dumps(_document(made, counts is not None), indent=1) + "\n")
    return 4 if any(row.failed() for row in made) else 0


def _show(row: Row) -> None:
    print(f"{row.client} ({row.versions}){': left: ' + ', '.join(row.left) if row.left else ''}")
    for feature, outcome in row.features.items():
        why = f": {row.why[feature]}" if outcome == "fails" else ""
        print(f"  {feature:24} {outcome}{why}", flush=True)


def _document(made: list[Row], counted: bool) -> dict[str, Any]:
    from datetime import date

    machine = probe()
    return {
        "title": "Real clients against the service",
        "date": date.today().isoformat(),
        "machine": f"{machine.cores} cores of {machine.cpu_model}",
        "command": "python bench/clients.py --folder FOLDER --install --suite FOLDER --write",
        "columns": [
            "client", "versions", "works", "documented refusal", "fails", "look-ups and packets that left",
        ],
        "rows": [
            [
                row.client, row.versions,
                *(
                    ", ".join(name for name, outcome in row.features.items() if outcome == kind)
                    for kind in ("works", "documented refusal", "fails")
                ),
                len(row.left) if counted else "not counted",
            ]
            for row in made
        ],
    }  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--suite", type=Path, help="a checkout of Open Responses")
    parser.add_argument("--write", action="store_true", help=f"to {RESULT.name}")
    parser.add_argument("--record", type=Path, help="each request becomes a file there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
