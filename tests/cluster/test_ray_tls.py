"""What a Ray cluster with our keys negotiates, read on the wire between Ray's own client and its server.

Needs Ray in the environment that STEELYARD_TRL_PYTHON names, or that `steelyard engines install trl` makes.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from steelyard.model import trl_package, trl_python
from steelyard.trust import make_keys, ray_environment

X25519MLKEM768, P256, TLS_1_3 = 0x11EC, 0x0017, b"\x03\x04"
GROUPS, VERSIONS, KEY_SHARE = 10, 43, 51  # extensions of TLS (RFC 8446, 4.2)
ASK = "import ray._raylet as r, sys; print(r.GcsClient(address=sys.argv[1]).cluster_id)"


def extensions(data: bytes, client: bool) -> dict[int, bytes]:
    """Of a ClientHello or ServerHello at the beginning of what one side sent."""
    assert data[:1] == b"\x16" and data[5:6] == (b"\x01" if client else b"\x02"), data[:16].hex()
    at = 5 + 4 + 2 + 32  # record, handshake, version, random
    at += 1 + data[at]
    if client:
        at += 2 + int.from_bytes(data[at : at + 2], "big")
        at += 1 + data[at]
    else:
        at += 3
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    found, at = {}, at + 2
    while at < end:
        kind, size = struct.unpack_from(">HH", data, at)
        found[kind] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return found


@contextmanager
def head(address: str, environment: dict[str, str], folder: Path):
    """The port of a Ray head, once it takes connections."""
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    words = [str(trl_python()), "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address", address,
             "--port", str(port), "--num-cpus", "1", "--include-dashboard", "false", "--object-store-memory",
             "80000000", "--disable-usage-stats", "--temp-dir", str(folder / "r"), "--block"]  # fmt: skip
    with open(folder / "head.log", "w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


class Relay:
    """Between two ends of TCP; `sent` has what came first from either."""

    def __init__(self, address: str, port: int) -> None:
        self.target, self.sent = (address, port), [b"", b""]
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listening.accept()
                server = socket.create_connection(self.target)
            except ConnectionRefusedError:
                client.close()  # not up yet: the client asks again
                continue
            except OSError:
                return
            for number, ends in enumerate(((client, server), (server, client))):
                threading.Thread(target=self._pump, args=(*ends, number), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, number: int) -> None:
        try:
            while piece := source.recv(65536):
                if len(self.sent[number]) < 20_000:
                    self.sent[number] += piece
                target.sendall(piece)
        except OSError:
            pass


@pytest.mark.timeout(300)
def test_the_group_between_rays_own_ends_is_the_best_that_grpc_offers():
    """gRPC of Ray 2.60 offers P-256 alone, as `trust explain` and train-on-several-machines.md say."""
    if trl_package("ray") is None:
        pytest.skip("no Ray to read from: steelyard engines install trl --ray, or STEELYARD_TRL_PYTHON")
    address = socket.gethostbyname(socket.gethostname())
    with tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)  # short: names of sockets are
        keys = make_keys(folder / "keys", [address])[0]
        environment = {**os.environ, **ray_environment(keys), "RAY_gcs_rpc_server_connect_timeout_s": "60"}
        with head(address, environment, folder) as port:
            relay = Relay(address, port)
            words = [str(trl_python()), "-c", ASK, f"127.0.0.1:{relay.port}"]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200)
            relay.listening.close()
            assert done.returncode == 0, done.stderr[-2000:] + (folder / "head.log").read_text()[-2000:]
    offered = extensions(relay.sent[0], client=True)[GROUPS][2:]
    answer = extensions(relay.sent[1], client=False)
    group = int.from_bytes(answer[KEY_SHARE][:2], "big")
    assert answer[VERSIONS] == TLS_1_3
    hybrid = X25519MLKEM768 in struct.unpack(f">{len(offered) // 2}H", offered)
    assert group == (X25519MLKEM768 if hybrid else P256)
