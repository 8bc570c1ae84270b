"""The command line: exit codes, errors with advice, JSON for scripts, quick help."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from tests.models import small_proto

RUN = (sys.executable, "-c", "from edgevit.cli.main import run; run()")


def edgevit(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``small.onnx`` and its artifact for this machine."""
    path = tmp_path_factory.mktemp("cli")
    onnx.save(small_proto(), path / "small.onnx")
    edgevit("compile", "small.onnx", "--target", "host", cwd=path)
    return path


def test_compile_names_the_artifact_after_model_and_target(folder: Path) -> None:
    assert (folder / "small-host.edgevit").is_file()


def test_compile_prints_the_manifest_for_scripts(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.edgevit"
    done = edgevit("compile", "small.onnx", "-t", "host", "-o", str(out), "--json", cwd=folder)
    said = json.loads(done.stdout)
    assert said["resolutions"][0]["check"]["status"] == "passed"
    assert said["path"] == str(out)
    assert len(said["sha256"]) == 64


def test_check_passes_and_says_how_far(folder: Path) -> None:
    said = json.loads(edgevit("check", "small-host.edgevit", "--json", cwd=folder).stdout)
    assert said["passed"]
    assert {tensor["name"] for tensor in said["tensors"]} == {"logits", "features"}
    assert "passed" in edgevit("check", "small-host.edgevit", "--local", cwd=folder).stdout


def test_check_finds_the_model_wherever_it_was_compiled_from(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.edgevit"
    moved.write_bytes((folder / "small-host.edgevit").read_bytes())
    edgevit("check", str(moved), cwd=tmp_path)


def test_check_refuses_another_model(folder: Path, tmp_path: Path) -> None:
    onnx.save(small_proto(seed=5), tmp_path / "other.onnx")
    done = edgevit("check", "small-host.edgevit", "--reference", str(tmp_path / "other.onnx"), cwd=folder, code=2)
    assert "not the model the artifact was compiled from" in done.stderr


def test_a_failed_check_exits_1_names_the_tensor_and_bisects(folder: Path, tmp_path: Path) -> None:
    """An artifact made with a planted fault, checked by an edgevit that has the same fault."""
    faulty = (
        "from tests.faults import stretch_sigmoid\n"
        "from edgevit.compiler import rewrite\n"
        "rewrite.REWRITES = (*rewrite.REWRITES, rewrite.Rewrite('fault', stretch_sigmoid))\n"
        "from edgevit.cli.main import run\nrun()"
    )
    root = Path(__file__).resolve().parents[2]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{faulty}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)

    refused = run("compile", "small.onnx", "-t", "host", "-o", str(tmp_path / "a.edgevit"))
    assert refused.returncode == 1
    assert not (tmp_path / "a.edgevit").exists()
    out = str(tmp_path / "b.edgevit")
    assert run("compile", "small.onnx", "-t", "host", "-o", out, "--no-verify").returncode == 0
    done = run("check", out, "--bisect")
    assert done.returncode == 1
    assert "the first wrong operator is Sigmoid 'sigmoid'" in " ".join(done.stdout.split())
    assert "logits" in done.stderr or "features" in done.stderr


def test_bench_prints_a_table_json_and_csv_and_writes_the_result(folder: Path, tmp_path: Path) -> None:
    short = ("--samples", "5", "--seconds", "0")
    assert "p50" in edgevit("bench", "small-host.edgevit", *short, cwd=folder).stdout
    out = tmp_path / "result.json"
    said = json.loads(edgevit("bench", "small-host.edgevit", *short, "--json", "-o", str(out), cwd=folder).stdout)
    assert len(said["edgevit"]["samples"]) >= 5
    assert json.loads(out.read_text()) == said
    lines = edgevit("bench", "small-host.edgevit", *short, "--csv", cwd=folder).stdout.splitlines()
    assert lines[0] == "runner,sample,seconds"
    assert len(lines) > 5


def test_bench_runs_beside_onnx_runtime(folder: Path) -> None:
    done = edgevit(
        "bench", "small-host.edgevit", "--samples", "5", "--seconds", "0", "--against", "onnxruntime", cwd=folder
    )
    assert "below 1 is faster" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("compile", "none.onnx", "-t", "host"), 2, "none.onnx"),
        (("compile", "small.onnx", "-t", "arn"), 2, "arm"),
        (("compile", "small.onnx", "-t", "host", "-o", "no/such/folder/a.edgevit"), 2, "cannot write"),
        (("compile", "small.onnx", "-t", "host", "--shape", "1x-3"), 2, "1x-3"),
        (("compile", "small.onnx", "-t", "host", "--tuning-log", "nowhere"), 2, "tuning log"),
        (("check", "none.edgevit"), 2, "no such artifact"),
        (("bench", "small.onnx"), 2, "not a whole artifact"),
        (("bench", "small-host.edgevit", "--rpc", "127.0.0.1:1"), 3, "cannot connect"),
        (("bench", "small-host.edgevit", "--rpc", "nonsense:port"), 2, "not an address"),
        (("bench", "small-host.edgevit", "--rpc", "127.0.0.1:1", "--local"), 2, "more than one way"),
        (("bench", "small-host.edgevit", "--tracker", "127.0.0.1:1"), 2, "belong together"),
        (("bench", "small-host.edgevit", "--emulate"), 3, "no emulator"),
        (("bench", "small-host.edgevit", "--protocol", "slow"), 2, "no protocol 'slow'"),
        (("check", "small-host.edgevit", "--tracker", "127.0.0.1:1", "--key", "k"), 3, "cannot connect"),
        (("info", "small-host.edgevit"), 2, "ONNX"),
        (("frobnicate",), 2, "frobnicate"),
    ],
)
def test_a_mistake_is_one_clear_error_with_its_exit_code(
    folder: Path, arguments: Sequence[str], code: int, words: str
) -> None:
    done = edgevit(*arguments, cwd=folder, code=code)
    assert words in " ".join(done.stderr.split())
    assert sorted(path.name for path in folder.iterdir()) == ["small-host.edgevit", "small.onnx"]


def test_a_target_of_ones_own_says_how_to_reach_it(folder: Path, tmp_path: Path) -> None:
    toml = edgevit("targets", "host", "--toml", cwd=folder).stdout
    (tmp_path / "mine.toml").write_text(
        toml.replace('name = "host"', 'name = "mine"') + '\n[reach]\nrpc = "127.0.0.1:1"\n'
    )
    out = str(tmp_path / "a.edgevit")
    edgevit("compile", "small.onnx", "-t", str(tmp_path / "mine.toml"), "-o", out, "--no-verify", cwd=folder)
    assert "cannot connect" in edgevit("check", out, cwd=folder, code=3).stderr
    edgevit("check", out, "--local", cwd=folder)


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = subprocess.run(
        [*RUN, "--debug", "check", "none.edgevit"], capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    """What keeps --help quick; its time is measured, not tested."""
    code = (
        "import sys\nsys.argv = ['edgevit', '--help']\n"
        "from edgevit.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'tvm', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'pydantic', 'psutil', 'platformdirs'}\n"
        "sys.exit(' '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    done = subprocess.run([*RUN, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == f"edgevit {version('edgevit')}"


def test_the_python_interface_is_what_the_package_says() -> None:
    import edgevit as package

    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.nonsense  # noqa: B018
