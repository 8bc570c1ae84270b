"""``edgevit targets`` as typed."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from edgevit.cli.targets import targets
from edgevit.errors import TargetError, UserError
from edgevit.targets import get_target, list_targets

app = typer.Typer()
app.command()(targets)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if result.exception:
        raise result.exception
    return result.stdout


def test_the_list_names_every_target_and_its_aliases():
    text = run()
    for target in list_targets():
        assert target.name in text
        assert all(alias in text for alias in target.aliases)


def test_the_list_as_json_is_the_schema():
    listed = json.loads(run("--json"))
    assert [entry["name"] for entry in listed] == [target.name for target in list_targets()]
    assert {entry["name"]: entry for entry in listed}["rpi5"]["caches"]["l3"] == 2097152


def test_one_target_shows_every_field():
    text = run("armhf")
    for part in ("armv7a-linux-gnueabihf", "cortex-a7", "512 KiB", "qemu-arm-static", "arm-linux-musleabihf"):
        assert part in text
    assert get_target("armv7-linux").fingerprint() in text


def test_one_target_as_json():
    shown = json.loads(run("rpi4", "--json"))
    assert shown.pop("fingerprint") == get_target("rpi4").fingerprint()
    assert shown == get_target("rpi4").model_dump(mode="json")


def test_printed_toml_starts_a_file_of_ones_own(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(run("jetson-orin", "--toml").replace("cores = 6", "cores = 12"), encoding="utf-8")
    target = get_target(mine)
    assert (target.name, target.cores, target.cpu) == ("jetson-orin", 12, "cortex-a78ae")
    assert "cortex-a78ae" in run(str(mine))


@pytest.mark.parametrize("arguments", [("--toml",), ("rpi4", "--toml", "--json")])
def test_toml_is_of_one_target(arguments):
    with pytest.raises(UserError, match="--toml needs a NAME"):
        run(*arguments)


def test_an_unknown_target_is_an_error_for_the_user():
    with pytest.raises(TargetError, match="there is no target 'rpi9'"):
        run("rpi9")
