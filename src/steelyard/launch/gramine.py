"""A manifest template of Gramine: steelyard's own service of a plan inside an SGX enclave. Pure.

Made into a manifest by `gramine-manifest`, whose jinja globals it uses, and signed by `gramine-sgx-sign`,
which hashes each trusted file. Source: Gramine's manifest-syntax page and its manifest_check.py (ff71d7a).
"""

from __future__ import annotations

from math import ceil, log2

NAME = "enclave.manifest.template"
BESIDE_BYTES = (
    4 << 30
)  # Python, OpenVINO and the heaps of the front and its children, beside the plan's memory
OWN_THREADS = 32  # Gramine's helpers, the event loop and its pools, beside one thread a core
TEMPLATE = """\
# {model} on {device}, as planned: steelyard's own service in an SGX enclave. Untested on SGX hardware.
#   gramine-manifest -Dpython_bin=/opt/steelyard/bin/python3 -Dmodel=/srv/model -Dstate=/srv/state \\
#     -Darch_libdir=/lib/x86_64-linux-gnu {name} enclave.manifest
#   gramine-sgx-sign --manifest enclave.manifest --output enclave.manifest.sgx     # hashes every trusted file
#   gramine-sgx enclave
# A policy lists the mr_enclave that gramine-sgx-sign prints. Paths are absolute and those of the host.

libos.entrypoint = "{{{{ python_bin }}}}"
# On loopback: what stands before it passes sealed prompts on; another address needs --keys.
loader.argv = ["python3", "-m", "steelyard", "serve", "{{{{ model }}}}", "--sealed-prompts",
  "--attest", "sgx", "--host", "127.0.0.1", "--port", "{port}", "--threads", "{threads}"]
loader.log_level = "error"

# Nothing of the host's environment, no argument from outside.
loader.env.LD_LIBRARY_PATH = "/lib:{{{{ arch_libdir }}}}:/usr{{{{ arch_libdir }}}}"
loader.env.HOME = "/state"
loader.env.STEELYARD_STATE = "/state"
loader.env.STEELYARD_CACHE = "/state/cache"
loader.env.STEELYARD_ENV = "production"
loader.env.OMP_NUM_THREADS = "{threads}"

fs.mounts = [
  {{ path = "/lib", uri = "file:{{{{ gramine.runtimedir() }}}}" }},
  {{ path = "{{{{ arch_libdir }}}}", uri = "file:{{{{ arch_libdir }}}}" }},
  {{ path = "/usr{{{{ arch_libdir }}}}", uri = "file:/usr{{{{ arch_libdir }}}}" }},
  {{ path = "{{{{ python_bin }}}}", uri = "file:{{{{ python_bin }}}}" }},
{{% for path in python.get_sys_path(python_bin) %}}
  {{ path = "{{{{ path }}}}", uri = "file:{{{{ path }}}}" }},
{{% endfor %}}
  {{ path = "{{{{ model }}}}", uri = "file:{{{{ model }}}}" }},
  # Sealed for this very enclave: keys, stores and logs of the service.
  {{ type = "encrypted", path = "/state", uri = "file:{{{{ state }}}}", key_name = "_sgx_mrenclave" }},
  {{ type = "tmpfs", path = "/tmp" }},
  {{ type = "tmpfs", path = "/dev/shm" }},
]

sys.enable_sigterm_injection = true
sys.stack.size = "2M"

sgx.debug = false
sgx.edmm_enable = false
sgx.enclave_size = "{size}"
sgx.max_threads = {max_threads}
sgx.remote_attestation = "dcap"
sgx.file_check_policy = "strict"
sgx.trusted_files = [
  "file:{{{{ gramine.runtimedir() }}}}/",
  "file:{{{{ arch_libdir }}}}/",
  "file:/usr{{{{ arch_libdir }}}}/",
  "file:{{{{ python_bin }}}}",
{{% for path in python.get_sys_path(python_bin) %}}
  "file:{{{{ path }}}}{{{{ '/' if path.is_dir() else '' }}}}",
{{% endfor %}}
  "file:{{{{ model }}}}/",
]
"""


def gramine(model: str, device: str, memory_bytes: float, threads: int, port: int = 8000) -> str:
    """The template for a service that needs `memory_bytes` on `threads` cores."""
    return TEMPLATE.format(
        model=model,
        device=device,
        name=NAME,
        port=port,
        threads=threads,
        size=size_of(memory_bytes),
        max_threads=threads + OWN_THREADS,
    )


def size_of(memory_bytes: float) -> str:
    """An enclave's size is a power of two."""
    return f"{2 ** max(ceil(log2((memory_bytes + BESIDE_BYTES) / (1 << 30))), 3)}G"
