"""ONNX Runtime as a process that answers JSON lines: ``python -m edgevit.bench.ort_worker MODEL THREADS INPUTS``.

Requests: ``{"sample": N}`` → ``{"seconds": […]}``; ``{"usage": true}`` → CPU time, peak memory, load, threads.
It ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from edgevit.device.usage import process_usage, usable_cores


def main() -> None:
    """Load the model, say so, answer until stdin ends."""
    import onnxruntime as ort

    from edgevit.accuracy.inputs import seeded_inputs
    from edgevit.manifest import TensorInfo

    model, threads = sys.argv[1], int(sys.argv[2]) or usable_cores()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    inputs = seeded_inputs([TensorInfo.model_validate(spec) for spec in json.loads(sys.argv[3])], seed=0)
    _say({"name": f"onnxruntime {ort.__version__}"})
    for line in sys.stdin:
        request = json.loads(line)
        if "sample" in request:
            _say({"seconds": _sample(session, inputs, int(request["sample"]))})
        else:
            usage = process_usage()
            _say(
                {
                    "cpu_seconds": usage["cpu_seconds"],
                    "peak_rss_bytes": usage["peak_rss_bytes"],
                    "load_average": usage["load_average_1m"],
                    "threads": threads,
                }
            )


def _sample(session: Any, inputs: dict[str, Any], count: int) -> list[float]:
    session.run(None, inputs)  # caches and clocks recover from the other side's turn
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        session.run(None, inputs)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
