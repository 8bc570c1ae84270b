"""The script that writes the paper's tables, and the page it wrote."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgevit.zoo.published import IPHONE_12, PATCH_SIZES, PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "paper.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_tables", SCRIPT.with_name("paper_tables.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def rows(page: str, title: str) -> list[list[str]]:
    """Cells of a table: headings first."""
    section = page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_one_line_measured(tmp_path: Path) -> None:
    page, data = tmp_path / "paper.md", tmp_path / "paper.json"
    done = run("--only", "pit-ti", "--samples", "1", "--seconds", "0", "-o", page, "--json", data)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")

    headings, *lines = rows(text, "Table 3: MobileViT and its rivals")
    measured = [index for index, heading in enumerate(headings) if heading.endswith("measured")]
    assert len(measured) == 2
    by_model = {cells[0]: cells for cells in lines}
    assert list(by_model) == [phone.title for phone in IPHONE_12]
    assert by_model["DeiT-tiny"][2:6] == ["10.99", "11.95", "28.15", "3.75"]
    for index in measured:
        assert float(by_model["PiT-Ti"][index].split()[0]) > 0
        assert by_model["PiT-Ti"][index + 1] == "–"  # its measure, MobileNetV2, was left out
        assert by_model["DeiT-tiny"][index] == "–"

    assert "Threads: 1" in text
    assert "Protocol: quick, 0.5 s to warm up, at least 1 samples and 0 s of each" in text
    assert "Beside: onnxruntime" in text
    (result,) = json.loads(data.read_text(encoding="utf-8")).values()
    assert result["edgevit"]["threads_asked"] == result["peer"]["threads_asked"] == 1
    assert all(result[runner]["samples"] for runner in ("edgevit", "peer"))


def test_every_heading_says_where_its_column_is_from(tables: ModuleType) -> None:
    page = tables.page({}, "just paper")
    for title in ("Models", "Table 3: MobileViT and its rivals", "Table 6: patch sizes"):
        headings = rows(page, title)[0]
        origins = ("published", "counted", "measured")
        left = [heading for heading in headings if not heading.endswith(origins)]
        assert {"model", "task", "input", "source", "patches", "× MobileNetV2", "× 2,2,2"} >= set(left)
    assert [cells[0] for cells in rows(page, "Table 6: patch sizes")[1:]] == [
        ",".join(map(str, row.patches)) for row in PATCH_SIZES
    ]
    assert len(rows(page, "Models")) == 1 + len(PUBLISHED)
    assert "Nothing was measured." in page


def test_the_page_is_what_is_published_and_counted_now(tables: ModuleType) -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert tables.model_table() in page, "run 'just paper'"
    now = tables.page({}, "just paper")
    for title in ("Table 3: MobileViT and its rivals", "Table 6: patch sizes"):
        written, current = rows(page, title), rows(now, title)
        assert written[0] == current[0]
        first = written[0].index("edgevit ms, measured")
        assert [cells[:first] for cells in written] == [cells[:first] for cells in current]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--only", "resnet-50"), "there is no line 'resnet-50'"), (("--protocol", "slow"), "no protocol 'slow'")],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments, "-o", tmp_path / "paper.md")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "paper.md").exists()
