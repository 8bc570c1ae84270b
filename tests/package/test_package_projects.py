"""Projects, as far as they can be read without a Mac: Swift's grammar, Xcode's project file, names that must agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from edgevit.package import SYSTEMS, System, package_artifact
from edgevit.package.plan import Plan
from edgevit.package.resources import LANGUAGES
from edgevit.package.xcode import APP, project_text
from tests.conftest import missing
from tests.package.conftest import Compiled


@pytest.fixture(scope="module")
def projects(small: Compiled, tmp_path_factory: pytest.TempPathFactory) -> dict[System, Path]:
    folder = tmp_path_factory.mktemp("projects")
    for system in SYSTEMS:
        package_artifact(small.artifact, small.model, system, folder / system, verify=False)
    return {system: folder / system for system in SYSTEMS}


@pytest.fixture(scope="module")
def swift() -> Any:
    """A parser of Swift."""
    try:
        import tree_sitter
        import tree_sitter_swift
    except ImportError:
        missing("tree-sitter and tree-sitter-swift are not installed")
    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))


@pytest.mark.parametrize("system", SYSTEMS)
def test_swift_files_follow_the_grammar(projects: dict[System, Path], swift: Any, system: System) -> None:
    files = sorted(projects[system].rglob("*.swift"))
    assert len(files) > 8
    for path in files:
        tree = swift.parse(path.read_bytes())
        wrong = [node.start_point for node in _nodes(tree.root_node) if node.type == "ERROR" or node.is_missing]
        assert not wrong, f"{path.name}: {wrong}"


def test_the_grammar_refuses_broken_swift(swift: Any) -> None:
    tree = swift.parse(b"func broken( { let = 3 ")
    assert tree.root_node.has_error


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_placeholder_is_left(projects: dict[System, Path], system: System) -> None:
    for path in projects[system].rglob("*"):
        if path.suffix in (".swift", ".md", ".pbxproj"):
            assert not re.search(r"@[A-Z]+@", path.read_text(encoding="utf-8")), path.name


def test_xcode_project_names_every_file(projects: dict[System, Path]) -> None:
    try:
        from pbxproj import XcodeProject
    except ImportError:
        missing("pbxproj is not installed")
    project = XcodeProject.load(str(projects["ios"] / f"{APP}.xcodeproj" / "project.pbxproj"))
    (target,) = project.objects.get_targets()
    assert (target.name, target.productType) == (APP, "com.apple.product-type.application")
    phases = {
        phase.isa: sorted(project.objects[project.objects[build].fileRef].path for build in phase.files)
        for phase in (project.objects[key] for key in target.buildPhases)
    }
    folder = projects["ios"] / APP
    assert phases == {
        "PBXSourcesBuildPhase": sorted(path.name for path in folder.glob("*.swift")),
        "PBXFrameworksBuildPhase": [],
        "PBXResourcesBuildPhase": ["Model"],
    }
    assert (folder / "Model").is_dir()
    for file in project.objects.get_objects_in_section("PBXFileReference"):
        assert file.sourceTree == "BUILT_PRODUCTS_DIR" or (folder / file.path).exists()
    settings = [c.buildSettings for c in project.objects.get_objects_in_section("XCBuildConfiguration")]
    assert [s["IPHONEOS_DEPLOYMENT_TARGET"] for s in settings if "SDKROOT" in s] == ["15.0", "15.0"]
    assert {s["PRODUCT_BUNDLE_IDENTIFIER"] for s in settings if "SDKROOT" not in s} == {"org.example.edgevit.small"}


def test_xcode_project_refers_to_what_is_there(projects: dict[System, Path]) -> None:
    text = (projects["ios"] / f"{APP}.xcodeproj" / "project.pbxproj").read_text(encoding="utf-8")
    defined = re.findall(r"^\t\t([0-9A-F]{24}) = \{", text, re.MULTILINE)
    assert len(set(defined)) == len(defined)
    assert set(re.findall(r"\b[0-9A-F]{24}\b", text)) == set(defined)


def test_names_with_any_character_are_quoted() -> None:
    text = project_text(["A.swift"], ["Model"], title='a "b"\\ ü', bundle="org.example.a-b", minimum="15.0")
    assert r'INFOPLIST_KEY_CFBundleDisplayName = "a \"b\"\\ ü";' in text
    assert 'PRODUCT_BUNDLE_IDENTIFIER = "org.example.a-b";' in text


def test_swift_declares_every_key_of_the_plan(projects: dict[System, Path]) -> None:
    text = (projects["ios"] / APP / "Plan.swift").read_text(encoding="utf-8")
    declared = set(re.findall(r"public let (\w+):", text))
    keys = set(_keys(Plan)) - {"emulated"}
    assert {re.sub(r"_(\w)", lambda found: found[1].upper(), key) for key in keys} == declared


def test_swift_knows_every_language(projects: dict[System, Path]) -> None:
    text = (projects["ios"] / APP / "EdgevitModel.swift").read_text(encoding="utf-8")
    assert tuple(re.findall(r'case "(metal[\d.]+)"', text)) == LANGUAGES


def test_package_has_the_folders_that_it_names(projects: dict[System, Path]) -> None:
    folder = projects["macos"]
    text = (folder / "Package.swift").read_text(encoding="utf-8")
    assert text.startswith("// swift-tools-version:5.7\n")
    for target in re.findall(r'arget\(name: "([\w-]+)"', text):
        assert list((folder / "Sources" / target).glob("*.swift"))
    assert (folder / "Sources" / "EdgevitKit" / "Model" / "plan.json").is_file()


@pytest.mark.parametrize("system", SYSTEMS)
def test_readme_says_what_nobody_has_tried(projects: dict[System, Path], system: System) -> None:
    text = (projects[system] / "README.md").read_text(encoding="utf-8")
    assert "No Mac has compiled" in text
    assert "have not been executed: the user asked for no check" in text
    assert '"image": Tensor(shape: [1, 3, 32, 32], floats: values)' in text


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.children:
        yield from _nodes(child)


def _keys(schema: type[BaseModel]) -> Iterator[str]:
    for name, field in schema.model_fields.items():
        yield name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _keys(kind)
