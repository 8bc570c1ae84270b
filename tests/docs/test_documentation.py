"""What README and docs say is tried out: commands, outputs, code, options, links, names."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from markdown_pages import PAGES, ROOT, Block, blocks, commands, matches
from pydantic import BaseModel

from edgevit.manifest import Manifest
from edgevit.target_schema import Target

_ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "TERM": "dumb",
    # Two pages at once: worker threads that spin would wait for each other.
    "TVM_NUM_THREADS": "1",
}
_SECONDS = 400
"""For one command: the first to need a device server builds it."""


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


@pytest.fixture(scope="session")
def tour(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder in which ``edgevit demo`` was run, once for all workers of a test run."""
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own in one of the run's.
    folder = (base if worker_id == "master" else base.parent) / "edgevit-tour"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            aside = folder.with_suffix(".aside")
            aside.mkdir(exist_ok=True)
            done = _run(["edgevit", "demo"], aside)
            assert done.returncode == 0, done.stdout
            aside.rename(folder)
    return folder


def _try(page: Path, block: Block, folder: Path) -> None:
    place = f"{page.name}:{block.line}"
    if block.language == "python":
        done = _run([sys.executable, "-c", block.text], folder)
        assert done.returncode == 0, f"{place}\n{done.stdout}"
        return
    for command in commands(block):
        done = _run(["bash", "-c", command.text], folder)
        shown = f"{place}: $ {command.text}\n{done.stdout}"
        assert bool(done.returncode) == command.fails, f"exit code {done.returncode} of {shown}"
        assert matches(command.expected, done.stdout), f"not what the page shows: {shown}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_code_of_the_page_work(
    page: Path, tour: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each page starts where ``edgevit demo`` ended."""
    shutil.copytree(tour, tmp_path, dirs_exist_ok=True)
    for block in blocks(page):
        if block.language in ("console", "python"):
            if block.needs:
                request.getfixturevalue(block.needs)
            _try(page, block, tmp_path)


def test_demo_says_what_it_found(tour: Path) -> None:
    results = json.loads((tour / "edgevit-demo" / "results.json").read_text(encoding="utf-8"))
    assert results["host"]["accuracy"]["passed"]
    assert results["host"]["latency"]["peer"]["name"].startswith("onnxruntime")
    if results["board"]:
        assert results["board"]["accuracy"]["passed"]
        assert results["board"]["accuracy"]["emulated"]
        assert results["board"]["latency"] is None


def test_readme_begins_with_the_two_lines_that_ci_runs() -> None:
    first, second = blocks(ROOT / "README.md")[:2]
    reader = next(
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line.startswith("mapfile -t readme")
    )
    script = f"{reader}\nprintf '%s\\n' \"${{readme[@]}}\""
    assert _run(["bash", "-c", script], ROOT).stdout == f"{first.text}\n{second.text}\n"
    assert first.text.endswith("edgevit demo")
    assert "pytest" in second.text
    assert {first.language, second.language} == {"sh"}


def test_generated_pages_are_current() -> None:
    done = _run([sys.executable, "docs/generate.py", "--check"], ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_commands_exist(page: Path) -> None:
    """Also of those that no test can run, because they need a device."""
    reference = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for block in blocks(page):
        if block.language not in ("sh", "console"):
            continue
        for words in re.findall(r"^(?:\$ )?(?:\.venv/bin/)?edgevit ((?:[^#|;&\n])+)", block.text, re.MULTILINE):
            names = words.replace("--debug ", "").split()
            command = next(
                (
                    " ".join(["edgevit", *names[:count]])
                    for count in (2, 1)
                    if f"\n## {' '.join(['edgevit', *names[:count]])}\n" in reference
                ),
                "edgevit",
            )
            section = reference.split(f"\n## {command}\n", 1)[1].split("\n## ", 1)[0]
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", words):
                known = re.search(rf"[`,/ ]{re.escape(option)}(?![a-z-])", section) or option in ("--help", "--debug")
                assert known, f"{page.name}: {command} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [_anchor(heading) for heading in headings], f"{page.name}: {link}"


def _anchor(heading: str) -> str:
    """The anchor that Markdown renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(("schema", "page"), [(Manifest, "artifact.md"), (Target, "targets.md")])
def test_every_key_of_the_schema_is_explained(schema: type[BaseModel], page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    missing = [key for key in _keys(schema) if f"`{key}`" not in text]
    assert not missing


def _keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys; the target inside the manifest has a page of its own."""
    found: list[str] = []
    for name, field in schema.model_fields.items():
        found.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Target:
                found += _keys(kind, f"{prefix}{name}.")
    return found
