"""The table of operators against the importer of the installed TVM."""

from __future__ import annotations

import ast
import inspect
import textwrap

import onnx
import pytest

from edgevit.model import operators


@pytest.fixture(scope="module")
def converters() -> dict[str, type]:
    frontend = pytest.importorskip("tvm.relax.frontend.onnx.onnx_frontend")
    return dict(frontend._get_convert_map())


def only_raises(converter: type) -> bool:
    """Whether every version of a converter does nothing but raise."""
    bodies = []
    for name, method in inspect.getmembers(converter):
        if name.startswith("_impl_v"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(method))).body[0]
            assert isinstance(tree, ast.FunctionDef)
            bodies.append([s for s in tree.body if not isinstance(s, ast.Expr)])
    return all(len(body) == 1 and isinstance(body[0], ast.Raise) for body in bodies)


def test_table_is_what_tvm_imports(converters: dict[str, type]) -> None:
    table = operators.ONNX_OPERATORS | operators.MICROSOFT_OPERATORS | set(operators.IMPORTED_BUT_REFUSED)
    # If is handled outside the map.
    imported = {name for name, converter in converters.items() if not only_raises(converter)} | {"If"}
    assert table == imported


def test_default_domain_holds_onnx_operators_only() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= operators.ONNX_OPERATORS


@pytest.mark.parametrize(
    ("domain", "op_type", "supported"),
    [
        ("", "Conv", True),
        ("ai.onnx", "Conv", True),
        ("com.microsoft", "FastGelu", True),
        ("com.microsoft", "Conv", False),
        ("", "FastGelu", False),
        # The importer's Attention is com.microsoft's; ONNX's own has other inputs.
        ("", "Attention", False),
        ("com.microsoft", "Attention", True),
        ("", "QLinearConv", False),
        ("", "Loop", False),
        ("ai.onnx.ml", "TreeEnsemble", False),
        ("", "AllClassNMS", False),
    ],
)
def test_support_depends_on_the_domain(domain: str, op_type: str, supported: bool) -> None:
    assert operators.is_supported(domain, op_type) is supported


def test_random_operators_are_not_supported() -> None:
    assert not operators.RANDOM_OPERATORS & operators.ONNX_OPERATORS
