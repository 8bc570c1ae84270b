"""TVM's own road for GPUs, for comparison: its importer, its fusion, its schedules, nothing of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.compiler.gpu.build import Built, build_gpu, gpu_target
from edgevit.target_schema import Target

if TYPE_CHECKING:
    from edgevit.compiler.prepare import Precision
    from edgevit.model import Model


def build_stock(model: Model, target: Target, precision: Precision) -> Built:
    """Compile a model as ``tvm.compile`` does by default for the target.

    With fp16, weights and values between kernels are float16, as TVM's pass for mixed precision leaves them.

    Raises:
        ToolchainError: TVM wrote a kernel that breaks the GPU's limits.
    """
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(model.proto, keep_params_in_input=False)
    if precision == "fp16":
        module = relax.transform.ToMixedPrecision(out_dtype="float16")(module)
    stock = relax.get_default_pipeline(tvm.target.Target(gpu_target(target)))
    return build_gpu(module, target, {}, pipeline=stock)
