"""What a user may ask for, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from edgevit.device.connect import connect, parse_address
from edgevit.errors import UserError
from edgevit.targets import get_target


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("board", ("board", 9090)),
        ("board:1", ("board", 1)),
        ("192.0.2.7:65535", ("192.0.2.7", 65535)),
        ("[2001:db8::7]", ("2001:db8::7", 9090)),
        ("[2001:db8::7]:9091", ("2001:db8::7", 9091)),
        ("2001:db8::7", ("2001:db8::7", 9090)),
        ("::1", ("::1", 9090)),
        (" board:9091 ", ("board", 9091)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, 9090) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9090", "board:", "board:0", "board:65536", "board:-1", "board:x", "board:9090:", "[]", "[]:1",
     "[::1", "::1]:2", "a b:1", "board:٣", "http://board:9090", "a:b:1"],
)  # fmt: skip
def test_no_addresses(text: str) -> None:
    with pytest.raises(UserError, match="not an address"):
        parse_address(text, 9090)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rpc": "a:1", "in_process": True},
        {"rpc": "a:1", "ssh": "b"},
        {"ssh": "b", "adb": ""},
        {"rpc": "a:1", "tracker": "b:1", "key": "k"},
        {"ssh": "b", "emulate": get_target("arm64")},
        {"tracker": "a:1"},
        {"key": "k"},
        {"rpc": "a:1", "key": "k"},
        {"tracker": "a:1", "key": ""},
        {"rpc": ""},
        {"ssh": ""},
        {"ssh": "-oProxyCommand=touch x"},
        {"timeout": 0.0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
    ],
)
def test_contradictions(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        connect(**arguments)
