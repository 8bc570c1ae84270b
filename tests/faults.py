"""Planted faults: rewrites that break the operator they touch."""

from __future__ import annotations

from typing import Any


def stretch_sigmoid(mod: Any) -> Any:
    """Every sigmoid comes out half a percent too large."""
    return _stretch(mod, "relax.sigmoid", 1.005)


def stretch_softmax(mod: Any) -> Any:
    """Every softmax sums to 1.02."""
    return _stretch(mod, "relax.nn.softmax", 1.02)


def _stretch(mod: Any, operator: str, factor: float) -> Any:
    from tvm import ir, relax

    wanted = ir.Op.get(operator)

    @relax.expr_functor.mutator
    class Stretch(relax.PyExprMutator):  # type: ignore[misc,name-defined]
        def visit_call_(self, call: Any) -> Any:
            call = self.visit_expr_post_order(call)
            return relax.op.multiply(call, relax.const(factor)) if call.op == wanted else call

    stretch = Stretch(mod)
    for name, function in list(mod.functions_items()):
        if isinstance(function, relax.Function):
            stretch.builder_.update_func(name, stretch.visit_expr(function))
    return stretch.builder_.get()
