"""Docker on this host, and the Kubernetes cluster of a kubeconfig (asked with --kubernetes alone)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..finding import Finding, bad, warn
from ..snapshot import NVIDIA, Host

NODES = ("kubectl", "describe", "nodes", "--request-timeout=8s")
EVENTS = ("kubectl", "get", "events", "-A", "--field-selector=type=Warning", "--request-timeout=8s")
PLUGINS = {
    "nvidia.com/gpu": "https://github.com/NVIDIA/k8s-device-plugin",
    "amd.com/gpu": "https://github.com/ROCm/k8s-device-plugin",
    "habana.ai/gaudi": "https://docs.habana.ai/en/latest/Orchestration/index.html",
    "gpu.intel.com/i915": "https://github.com/intel/intel-device-plugins-for-kubernetes",
}


def docker_permission(host: Host) -> Iterator[Finding]:
    if re.search(
        r"permission denied while trying to connect to the Docker daemon", host.output("docker", "info")
    ):
        cause = "this user is not in the group docker, which owns /var/run/docker.sock"
        fix = "sudo usermod -aG docker $USER, then log in again (the group is as good as root)"
        yield warn("docker.permission", "docker: permission denied", cause, fix)


def docker_gpu(host: Host) -> Iterator[Finding]:
    text = host.output("docker", "info")
    toolkit = host.has("nvidia-ctk", "--version")  # --gpus needs its hook alone, no registered runtime
    runtimes = re.search(r"^\s*Runtimes:(.*)$", text, re.M)
    cdi = re.search(r"CDI spec directories|nvidia\.com/gpu", text) and "nvidia.com/gpu" in text
    if (
        runtimes
        and "nvidia" not in runtimes[1]
        and not cdi
        and host.pci(NVIDIA)
        and not host.container
        and not toolkit
    ):
        yield warn(
            "docker.nvidia_runtime",
            f"Docker knows the runtimes{runtimes[1]}: could not select device driver with capabilities: "
            "[[gpu]]",
            "the NVIDIA Container Toolkit is not installed, or not registered with Docker",
            "sudo apt install nvidia-container-toolkit && sudo nvidia-ctk runtime configure "
            "--runtime=docker && "
            "sudo systemctl restart docker",
        )


def certificate(host: Host) -> Iterator[Finding]:
    text = host.output(*NODES)
    if "x509: certificate has expired or is not yet valid" in text:
        cause = "the cluster's certificates are over, or a clock is wrong"
        fix = (
            "date; then on the control plane: sudo kubeadm certs renew all (k3s: restart it), and copy "
            "the new kubeconfig"
        )
        yield bad("kubernetes.certificate", text.strip()[-200:], cause, fix, certainty="likely")


def nodes(host: Host) -> Iterator[Finding]:
    for name, text in _nodes(host).items():
        pressure = re.search(r"^\s*(Disk|Memory|PID)Pressure\s+True", text, re.M)
        plugin = re.search(r"^\s*Ready\s+False.*(NetworkPluginNotReady|cni).*$", text, re.M | re.I)
        ready = re.search(r"^\s*Ready\s+(False|Unknown)\b.*$", text, re.M)
        if pressure:
            kind = pressure[1].lower()
            what = {"disk": "its disk or inodes", "memory": "its memory", "pid": "its process numbers"}[kind]
            fix = {"disk": f"on {name}: df -h; df -i; sudo crictl rmi --prune"}.get(
                kind, f"kubectl top pods -A; on {name}: top"
            )
            seen = f"node {name}: {pressure[1]}Pressure, pods are evicted"
            yield bad("kubernetes.pressure", seen, f"{what} are nearly used up", fix)
        elif plugin:
            cause = "the network plugin (CNI) has not started on it"
            fix = (
                f"kubectl get pods -n kube-system -o wide | grep {name}; on it: ls /etc/cni/net.d, sudo "
                "systemctl restart containerd"
            )
            yield bad(
                "kubernetes.network", f"node {name} is not ready: cni plugin not initialized", cause, fix
            )
        elif ready:
            fix = f"on {name}: sudo systemctl status kubelet; journalctl -u kubelet -n 50"
            yield bad(
                "kubernetes.not_ready",
                f"node {name} is not ready",
                "its kubelet does not report",
                fix,
                certainty="likely",
            )


def devices(host: Host) -> Iterator[Finding]:
    wanted = set(re.findall(r"Insufficient ([\w.]+/\w+)", host.output(*EVENTS)))
    offered = host.output(*NODES)
    for resource in sorted(wanted & set(PLUGINS)):
        if not re.search(rf"^\s*{re.escape(resource)}:\s*[1-9]", offered, re.M):
            yield bad(
                "kubernetes.no_device",
                f"pods wait: Insufficient {resource}; no node offers any",
                "the device plugin does not run, or sees no device: no driver, or the wrong default runtime",
                f"kubectl get pods -A | grep device-plugin; its log says why; {PLUGINS[resource]}",
                certainty="likely",
            )


def _nodes(host: Host) -> dict[str, str]:
    """The description of each node by its name."""
    parts = re.split(r"^Name:\s+", host.output(*NODES), flags=re.M)[1:]
    return {part.split(maxsplit=1)[0]: part for part in parts}


RULES = (docker_permission, docker_gpu, certificate, nodes, devices)
