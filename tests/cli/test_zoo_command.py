"""``edgevit zoo`` as typed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer
from typer.testing import CliRunner

import edgevit
from edgevit.cli.zoo import zoo
from edgevit.errors import UserError
from edgevit.zoo import CATALOGUE

app = typer.Typer()
app.command()(zoo)


def run(*arguments: str | Path, columns: int = 200) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns)})
    if result.exception:
        raise result.exception
    return result.stdout


def parsed(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json"))


def test_the_list_has_every_model_and_task_and_fits_a_terminal() -> None:
    text = run(columns=80)
    listed = [line.split()[:2] for line in text.splitlines() if "256x256" in line or "320x320" in line]
    assert ["mobilevit-s", "det"] in listed
    assert all(name in text for name in CATALOGUE)
    assert "mobilevit-xs      cls   256x256      2.32 M   1.03 G  top-1 74.8 %  MobileViT" in text
    assert "…" not in text


def test_the_list_as_json_has_ours_and_the_published_figures() -> None:
    rows = {(row["name"], row["task"]): row for row in parsed()}
    assert len(rows) == sum(len(entry.tasks) for entry in CATALOGUE.values())
    row = rows["mobilevitv2-1.0", "cls"]
    assert (row["parameters"], row["macs"], row["image_size"], row["classes"]) == (
        4901841,
        1812090880,
        [256, 256],
        1000,
    )
    known = row["published"]
    assert (known["parameters"]["text"], known["macs"][0]["value"]) == ("4.9 M", 1.8e9)
    assert known["accuracy"]["top-1"]["citation"].endswith("arXiv 2206.02680")


def test_a_model_is_shown_at_every_task() -> None:
    text = run("mobilevit-xxs")
    for part in ("classification (cls)", "detection (det)", "segmentation (seg)", "1.7 M (MobileViT, Table 1)", "BGR"):
        assert part in text
    (row,) = parsed("mobilevit-s", "--task", "det")
    assert (row["published"]["accuracy"]["mAP"]["text"], row["about"]["labels"][1]) == ("27.7 %", "person")


def test_no_paper_speaks_of_another_size() -> None:
    (row,) = parsed("mobilevit-s", "--task", "cls", "--size", "224", "--patches", "8,4,2")
    assert row["published"] is None
    assert row["macs"] < 1_600_000_000


def test_export(tmp_path: Path) -> None:
    path = tmp_path / "f.onnx"
    said = parsed("mobilevit-xxs", "--task", "det", "-o", path, "--size", "64x96", "--classes", "4", "--seed", "3")
    data = path.read_bytes()
    assert (said["path"], said["bytes"], said["seed"]) == (str(path), len(data), 3)
    assert said["sha256"] == hashlib.sha256(data).hexdigest()
    model = edgevit.load(path)
    assert model.inputs[0].shape == (1, 3, 64, 96)
    assert model.about.detection is not None
    assert model.about.labels is None
    assert run("mobilevit-xxs", "--task", "det", "-o", path, "--size", "64x96", "--classes", "4", "--seed", "3")
    assert path.read_bytes() == data


def test_export_says_what_it_wrote(tmp_path: Path) -> None:
    text = run("mobilenetv2", "-o", tmp_path, "--size", "64", "--classes", "2", "--dynamic")
    data = (tmp_path / "mobilenetv2.onnx").read_bytes()
    assert hashlib.sha256(data).hexdigest() in text
    assert f"{len(data):,} bytes" in text
    assert "2,226,434 parameters" in text
    assert "MACs at 64x64" in text
    assert "not trained" in text
    dims = onnx.load_from_string(data).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in dims] == [1, 3, "height", "width"]


def test_a_folder_gets_the_name_of_model_and_task(tmp_path: Path) -> None:
    run("mobilevit-xxs", "--task", "seg", "-o", tmp_path, "--size", "64")
    assert [path.name for path in tmp_path.iterdir()] == ["mobilevit-xxs-seg.onnx"]


def test_labels_come_from_a_file(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\ndog\n", encoding="utf-8")
    said = parsed("pit-ti", "-o", tmp_path / "f.onnx", "--size", "32", "--classes", "2", "--labels", names)
    assert said["about"]["labels"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("mobilvit-s",), "Did you mean mobilevit-s"),
        (("--task", "det"), "--task without a NAME does nothing"),
        (("--weights", "f.pt"), "--weights without a NAME"),
        (("mobilevit-s", "--weights", "f.pt"), "--weights without --output does nothing"),
        (("mobilevit-s", "--size", "big"), "'big' is no image size"),
        (("mobilevit-s", "--patches", "2,2"), "no three patch sizes"),
        (("deit-tiny", "--task", "seg"), "deit-tiny has no task 'seg'"),
    ],
)
def test_refusals(arguments: tuple[str, ...], match: str) -> None:
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert match in str(caught.value)


@pytest.mark.parametrize("weights", ["missing.pt", "notes.txt"])
def test_nothing_is_written_where_the_weights_do_not_fit(tmp_path: Path, weights: str) -> None:
    (tmp_path / "notes.txt").write_text("no weights", encoding="utf-8")
    with pytest.raises(UserError):
        run("mobilevit-xxs", "-o", tmp_path / "f.onnx", "--weights", tmp_path / weights)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_does_not_exist_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        run("mobilevit-xxs", "-o", tmp_path / "no" / "f.onnx", "--size", "32")


def test_the_command_is_there_and_importing_it_costs_nothing() -> None:
    script = (
        "import sys, edgevit.cli.main as m; heavy = {'numpy', 'onnx', 'rich.table', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy; assert 'zoo' in [c.callback.__name__ for c in m.app.registered_commands]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
