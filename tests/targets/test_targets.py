"""Targets as users meet them: names, aliases, files of their own, and what a mistake in one says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.errors import TargetError
from edgevit.resources import resource_folder
from edgevit.targets import Target, get_target, list_targets, validate_for_compiler

PRESETS = sorted(path.stem for path in resource_folder("targets").glob("*.toml"))


@pytest.fixture
def own(tmp_path):
    def write(text: str, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_by_its_file_name_and_cites_its_figures(name):
    target = get_target(name)
    assert target.name == name
    assert target.sources
    assert target.reach.rpc is target.reach.ssh is target.reach.tracker is None


def test_the_presets_cover_the_promised_devices():
    assert set(PRESETS) >= {
        *("arm64-linux", "rpi3", "rpi4", "rpi5", "jetson-orin", "graviton2", "graviton3", "graviton4"),
        *("armv7-linux", "x86-64-v3", "x86-64-v4", "apple-silicon"),
    }
    assert [target.name for target in list_targets()] == ["host", *PRESETS]


def test_an_alias_is_the_preset_and_no_two_names_are_the_same():
    assert get_target("arm") == get_target("arm64-linux")
    assert get_target("native") == get_target("host")
    names = [name for target in list_targets() for name in (target.name, *target.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("name", "zig_target", "glibc", "macos"),
    [
        ("arm64-linux", "aarch64-linux-gnu.2.28", "2.28", None),
        ("armv7-linux", "arm-linux-gnueabihf.2.28", "2.28", None),
        ("apple-silicon", "aarch64-macos.11.0", None, "11.0"),
    ],
)
def test_linking_states_the_oldest_system(name, zig_target, glibc, macos):
    linking = get_target(name).linking
    assert (linking.zig_target, linking.minimum_glibc, linking.minimum_macos) == (zig_target, glibc, macos)


def test_the_tvm_dictionary():
    assert get_target("armv7-linux").tvm_target() == {
        "kind": "llvm",
        "mtriple": "armv7a-linux-gnueabihf",
        "mcpu": "cortex-a7",
        "mattr": ["+neon", "+vfp4", "-slowfpvfmx", "-vmlx-hazards", "+use-misched"],
        "mfloat-abi": "hard",
        "num-cores": 4,
        "fast-math-contract": True,
    }


def test_own_file_overrides_keys_of_its_base_one_by_one(own):
    base = get_target("rpi4")
    target = get_target(own('base = "rpi4"\ncores = 2\n[caches]\nl2 = 524288\n[reach]\nssh = "pi@board"\n'))
    assert target.name == "mine"
    assert target.aliases == ()
    assert (target.cores, target.caches.l2, target.caches.l1d) == (2, 524288, base.caches.l1d)
    assert target.reach.ssh == "pi@board"
    assert target.cpu == base.cpu


def test_a_base_may_be_a_file_beside_it(own):
    own('base = "rpi5"\ncores = 3\n', "board.toml")
    assert get_target(str(own('base = "./board.toml"\ndescription = "mine"\n'))).cores == 3


def test_a_path_is_recognised_by_its_ending_or_a_separator(own, tmp_path, monkeypatch):
    own('base = "rpi5"\n', "board.toml")
    own('base = "rpi5"\n', "board")
    monkeypatch.chdir(tmp_path)
    assert get_target("board.toml") == get_target("./board") == get_target(Path("board"))
    with pytest.raises(TargetError, match="there is no target 'board'"):
        get_target("board")


@pytest.mark.parametrize("name", ["host", *PRESETS])
def test_printed_toml_is_a_target_again_with_the_same_code(own, name):
    target = get_target(name)
    again = get_target(own(target.to_toml()))
    assert again == target.model_copy(update={"aliases": ()})
    assert again.fingerprint() == target.fingerprint()


def test_fingerprint_follows_code_and_nothing_else(own):
    plain = get_target("rpi5").fingerprint()
    assert len(plain) == 64
    other_words = 'base = "rpi5"\nname = "x"\nnotes = "z"\n[reach]\nrpc = "127.0.0.1:9090"\n'
    assert get_target(own(other_words)).fingerprint() == plain
    shuffled = 'base = "rpi5"\nfeatures = ["+lse", "+neon", "+fullfp16", "+dotprod"]\n'
    assert get_target(own(shuffled)).fingerprint() == plain
    for change in ("cores = 2", 'cpu = "cortex-a77"', "[caches]\nl1d = 1024", "[vector]\nregisters = 16"):
        assert get_target(own(f'base = "rpi5"\n{change}\n')).fingerprint() != plain


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ('base = "rpi4"\ncores = "2"', ": cores", "valid integer"),
        ('base = "rpi4"\ncores = 0', ": cores", "greater than 0"),
        ('base = "rpi4"\ncores = true', ": cores", "valid integer"),
        ('base = "rpi4"\ncahces = 1', ": cahces", "Did you mean caches"),
        ('base = "rpi4"\n[caches]\nl2 = -5', ": caches.l2", "greater than 0"),
        ('base = "rpi4"\n[caches]\nl4 = 5', ": caches.l4", "Known keys: l1d, l2"),
        ('base = "rpi4"\n[[clusters]]\ncpu = "x"\ncores = 9\nspeed = 1', ": clusters.0.speed", "no such key"),
        ('base = "rpi4"\nfeatures = ["neon"]', ": features.0", "with its sign"),
        ('base = "rpi4"\nfeatures = ["+sve", "-sve"]', ": features", "sve named more than once"),
        ('base = "rpi4"\ntriple = "arm64-linux-gnu"', ": triple", "aarch64-linux-gnu"),
        ('base = "rpi4"\ntriple = "riscv64-linux-gnu"', ": triple", "riscv64"),
        ('base = "rpi4"\ntriple = "aarch64-windows-msvc"', ": triple", "none of linux, android, macos and ios"),
        ('base = "rpi4"\nfloat_abi = "hard"', "", "32-bit ARM only"),
        ('base = "armv7-linux"\nfloat_abi = "soft"', "", "must be 'hard'"),
        ('base = "apple-silicon"\nemulator = "qemu-aarch64"', "", "programs for the Linux kernel only"),
        ('base = "apple-silicon"\ncores = 12', "", "more than the clusters"),
        ('base = "rpi4"\n[reach]\nrpc = "board"', ": reach.rpc", "host:port"),
        ('base = "rpi4"\n[linking]\nzig_target = "arm"', ": linking.zig_target", "zig target such as"),
        ('base = "rpi4"\n[linking]\nlinker = "mold"', ": linking.linker", "'zig'"),
        ('base = "rpi44"', ": base", "Did you mean rpi4"),
        ("base = 4", ": base", "not a string"),
        ('base = "./mine.toml"', ": base", "circle"),
        ('name = "x"\ncores = [\n', ":3", "not valid TOML"),
        ('name = "x"\ncores = 1 2\nfma = true\n', ":2", "not valid TOML"),
        ('name = "x"', "", "cpu: this key is missing"),
        ('base = "rpi4"\nname = "A B"', ": name", "lower-case"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_key(own, text, where, message):
    path = own(text)
    with pytest.raises(TargetError) as caught:
        get_target(path)
    assert caught.value.where == f"{path}{where}"
    assert message in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_all_mistakes_are_named_at_once(own):
    with pytest.raises(TargetError) as caught:
        get_target(own('base = "rpi4"\ncores = -1\nspeed = 3\n[vector]\nbits = 100'))
    assert all(key in caught.value.message for key in ("cores:", "speed:", "vector.bits:"))


def test_files_that_are_not_text_or_not_there(tmp_path):
    binary = tmp_path / "a.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in (
        (binary, "not UTF-8"),
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(TargetError, match=message):
            get_target(path)
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * 2_000_000)
    with pytest.raises(TargetError, match="too large"):
        get_target(huge)


def test_an_unknown_name_suggests_the_closest_and_lists_all():
    with pytest.raises(TargetError) as caught:
        get_target("rpi-4")
    assert "Did you mean rpi4" in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


def test_names_llvm_does_not_know_are_refused(own, capfd):
    with pytest.raises(TargetError, match=r"no CPU 'cortex-a78x'.*Did you mean cortex-a78"):
        validate_for_compiler(get_target(own('base = "rpi4"\ncpu = "cortex-a78x"')))
    for feature in ("+dotprd", "-dotprd"):
        with pytest.raises(TargetError, match="no feature 'dotprd'"):
            validate_for_compiler(get_target(own(f'base = "rpi4"\nfeatures = ["{feature}"]')))
    capfd.readouterr()  # LLVM's own remark on the feature


def test_listing_does_not_import_the_compiler():
    code = (
        "import sys; from edgevit.targets import *; list_targets(); get_target('rpi4');"
        "assert not {'tvm', 'numpy', 'onnx'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_targets_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        get_target("rpi4").cores = 8  # type: ignore[misc]
    assert isinstance(get_target("rpi4"), Target)
