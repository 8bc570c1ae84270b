"""Find what is wrong with the tools and devices edgevit relies on, and say what to do about it.

Every probe stands alone: it has its own time limit, needs no other probe's result, and a fault in one is a
finding, never the end of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from edgevit.device.doctor import emulators, machine, network, phones, software, tools
from edgevit.device.doctor.finding import Finding, error
from edgevit.errors import EdgevitError

__all__ = ["Finding", "diagnose"]

Probe = Callable[[], Sequence[Finding]]

_AT_ONCE = 4  # most probes wait for a child process or a socket


def diagnose(
    *,
    rpc: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    ssh: str | None = None,
    adb: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Run every probe; more where a device is named.

    Args:
        rpc: ``host:port`` of an RPC server to look at.
        tracker: ``host:port`` of a tracker to look at, and at the devices it knows.
        key: only this key's devices of the tracker.
        ssh: a host OpenSSH should reach.
        adb: serial of a phone that adb should reach; empty for the only one.
        progress: told how many of how many probes are done.

    Returns:
        Findings in a fixed order.
    """
    # The load comes first and alone: the other probes would raise it.
    findings = _guarded("CPU load", machine.load)
    probes = _probes(rpc, tracker, key, ssh, adb)
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        running = [pool.submit(_guarded, name, probe) for name, probe in probes]
        for done, future in enumerate(running, start=1):
            findings += future.result()
            if progress is not None:
                progress(done, len(running))
    return findings


def _probes(
    rpc: str | None, tracker: str | None, key: str | None, ssh: str | None, adb: str | None
) -> list[tuple[str, Probe]]:
    probes: list[tuple[str, Probe]] = [
        ("versions", software.versions),
        ("TVM saves functions", software.saves_functions),
        ("zig", tools.zig),
        ("system compilers", tools.compilers),
        ("Android NDK", tools.ndk),
        ("QEMU", emulators.emulators),
        ("device servers", tools.servers),
        ("loopback", network.loopback),
        ("default ports", network.default_ports),
        ("ssh client", network.ssh_client),
        ("adb", phones.adb_client),
        ("CPU", machine.processor),
        ("memory", machine.memory),
        ("folders", machine.folders),
    ]
    if rpc is not None:
        probes.append((f"RPC server {rpc}", partial(network.rpc_server, rpc)))
    if tracker is not None:
        probes.append((f"tracker {tracker}", partial(network.tracker, tracker, key)))
    if ssh is not None:
        probes.append((f"ssh {ssh}", partial(network.ssh_host, ssh)))
    if adb is not None:
        probes.append((f"phone {adb}".strip(), partial(phones.phone, adb)))
    return probes


def _guarded(name: str, probe: Probe) -> list[Finding]:
    try:
        return list(probe())
    except EdgevitError as fault:
        return [error(name, fault.message, fault.advice)]
    except Exception as fault:
        return [error(name, f"the probe itself failed: {type(fault).__name__}: {fault}")]
