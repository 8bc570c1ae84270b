"""Probes of adb and of a phone that it reaches."""

from __future__ import annotations

import shutil

from edgevit.device.adb import phone_facts
from edgevit.device.adb_client import Adb, adb_command, choose_phone
from edgevit.device.adb_server import FOLDER, triple_for
from edgevit.device.doctor.command import run
from edgevit.device.doctor.finding import Finding, error, ok
from edgevit.device.doctor.sessions import try_session
from edgevit.errors import DeviceError, EdgevitError

_NEEDED_MB = 64.0  # the server, and a model beside it
_BUILD_SECONDS = 300.0


def adb_client() -> list[Finding]:
    """Whether the adb client is there; its server is not started."""
    command = adb_command()
    if not shutil.which(command[0]):
        return [ok("adb", f"no {command[0]} on PATH; only --adb needs it")]
    done = run([*command, "version"])
    if done.code != 0:
        return [error("adb", f"does not run: {done.trouble}", "Install Android's platform-tools again.")]
    version = next((line for line in done.output.splitlines() if line.startswith("Version")), done.first_line)
    return [ok("adb", f"{shutil.which(command[0])}, {version.lower()}")]


def phone(serial: str) -> list[Finding]:
    """Whether a phone is attached and trusts this machine, has room, and runs edgevit's server.

    Args:
        serial: of the phone; empty for the only one.
    """
    name = f"phone {serial}".strip()
    try:
        device = choose_phone(serial)
        name, adb = f"phone {device.serial}", Adb(device.serial)
        facts = phone_facts(adb)
        triple = triple_for(facts.abis, adb.where)
    except EdgevitError as fault:
        return [error(name, fault.message, fault.advice)]
    attached = ok(name, f"attached; {facts.text}; {', '.join(facts.abis)}")
    server = try_session(f"{name}: server for {triple}", {"adb": device.serial}, more_seconds=_BUILD_SECONDS)
    return [attached, _room(name, adb), server]


def free_megabytes(text: str) -> float | None:
    """What ``df -k`` says is available, in MB; None where it cannot be read."""
    columns = text.strip().splitlines()[-1].split() if text.strip() else []
    # A long name of the file system may have a line of its own: count from the end.
    return int(columns[-3]) * 1024 / 1e6 if len(columns) >= 5 and columns[-3].isdigit() else None


def _room(name: str, adb: Adb) -> Finding:
    name = f"{name}: {FOLDER}"
    try:
        free = free_megabytes(adb.shell(f"df -k {FOLDER}"))
    except DeviceError as fault:
        return error(name, fault.message, fault.advice)
    if free is None:
        return ok(name, "the phone does not tell how much room there is")
    if free < _NEEDED_MB:
        return error(name, f"{free:.0f} MB free; a server and a model need {_NEEDED_MB:.0f}", "Free some storage.")
    return ok(name, f"{free:.0f} MB free")
