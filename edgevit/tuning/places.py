"""Where candidates run: one device or several alike, and whether building disturbs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgevit.errors import DeviceUnreachable, TargetError, UserError
from edgevit.targets import require_cpu

if TYPE_CHECKING:
    from edgevit.device.session import Session
    from edgevit.target_schema import Target

Connect = Callable[[], "Session"]


@dataclass(frozen=True)
class Places:
    """Devices to measure on.

    Attributes:
        connects: one for each device: opens a session, again and again.
        here: they are this very machine, on which a compiler would disturb what is measured.
    """

    connects: tuple[Connect, ...]
    here: bool = False


def find_places(
    target: Target,
    *,
    rpc: Sequence[str] = (),
    tracker: str | None = None,
    key: str | None = None,
    ssh: Sequence[str] = (),
    adb: Sequence[str] = (),
    emulate: bool = False,
    local: bool = False,
    devices: int | None = None,
    threads: int | None = None,
    timeout: float = 20.0,
    progress: Callable[[int, int], None] | None = None,
) -> Places:
    """The devices that a user means; none is opened yet.

    Args:
        target: to tune for. Where nothing is said, its own device is meant if it names one, else this machine.
        rpc: addresses of RPC servers, ``host:port``.
        tracker: address of a TVM tracker; needs ``key``.
        key: which of the tracker's devices will do: all that are free.
        ssh: hosts that OpenSSH reaches.
        adb: serials of phones that adb reaches; an empty one stands for the only phone.
        emulate: under QEMU, where nothing is timed.
        local: this machine.
        devices: sessions at most; None for as many as there are, and one under an emulator.
        threads: that kernels will be called with; the process on this machine is pinned to as many cores.
        timeout: seconds to reach a device.
        progress: told of a server's build, where one is needed.

    Raises:
        UserError: the arguments contradict each other, or the target's kernels run on a GPU.
        TargetError: this machine cannot run the target's code.
        DeviceUnreachable: no tracker answers, or it knows no such device.
    """
    require_cpu(target, "Tuning")
    from edgevit.device.connect import connect

    if not any((rpc, tracker, key, ssh, adb, emulate, local)):
        reach = target.reach
        rpc, ssh = [reach.rpc] if reach.rpc else [], [reach.ssh] if reach.ssh else []
        tracker, key = reach.tracker, reach.key if reach.tracker else None
    if sum(map(bool, (rpc, tracker or key, ssh, adb, emulate, local))) > 1:
        raise UserError(
            "more than one way to the devices was given.",
            advice="Choose one of --rpc, --tracker, --ssh, --adb, --emulate and --local.",
        )
    if tracker or key:
        count = _free_devices(tracker, key, devices)
        return Places((partial(connect, tracker=tracker, key=key, timeout=timeout),) * count)
    if emulate:
        session = partial(connect, emulate=target, progress=progress)
        return Places((session,) * (devices or 1))
    if rpc:
        return Places(tuple(partial(connect, rpc=one, timeout=timeout) for one in rpc[:devices]))
    if ssh:
        return Places(tuple(partial(connect, ssh=one, timeout=timeout, progress=progress) for one in ssh[:devices]))
    if adb:
        # Named once and for all: a phone that comes back after it was lost is the same one.
        from edgevit.device.adb_client import choose_phone

        serials = list(dict.fromkeys(choose_phone(one, timeout=timeout).serial for one in adb))
        return Places(tuple(partial(connect, adb=one, timeout=timeout, progress=progress) for one in serials[:devices]))
    _check_native(target)
    from edgevit.device.spawn import connect_process
    from edgevit.device.usage import usable_cores

    cores = threads or min(target.cores, usable_cores())
    return Places((partial(connect_process, cores=cores),), here=True)


def _free_devices(tracker: str | None, key: str | None, most: int | None) -> int:
    """How many devices of a tracker's key to take: those that are free, or one to wait for."""
    from edgevit.device.connect import TRACKER_PORT, parse_address
    from edgevit.device.listing import list_devices

    if tracker is None or key is None:
        raise UserError("--tracker and --key belong together.", advice="Give both, or neither.")
    found = {status.key: status for status in list_devices(*parse_address(tracker, TRACKER_PORT))}
    if key not in found or not found[key].devices:
        raise DeviceUnreachable(
            f"no device is registered under the key {key!r}.",
            where=f"tracker {tracker}",
            advice="Start a server there with --tracker and --key; 'edgevit devices list' shows what is known.",
        )
    free = max(1, found[key].free)
    return min(free, most) if most else free


def _check_native(target: Target) -> None:
    from edgevit.targets import get_target, runs_here

    if not runs_here(target):
        host = get_target("host")
        raise TargetError(
            f"this machine, a {host.cpu} on {host.system}, cannot run code for {target.name}.",
            where=target.name,
            advice="Say where the device is: --rpc, --tracker with --key, --ssh, or --adb. --emulate tries the path "
            "under QEMU, and --estimate ranks choices without a device.",
        )
