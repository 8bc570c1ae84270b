"""``edgevit bench``: how fast the artifact is, on the device it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.where import Adb, Emulate, Key, Local, Rpc, Ssh, Timeout, Tracker, Where


def bench(
    artifact: Annotated[Path, typer.Argument(help="What 'edgevit compile' wrote.")],
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Worker threads; default: the runtime's choice.")
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="quick (50 samples and 2 s) or mlperf (1024 samples and 60 s).")
    ] = "quick",
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Calls to time at least, instead of the protocol's.")
    ] = None,
    min_seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.0, help="Seconds to time for at least, likewise.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="onnxruntime: measured in turns, in a process of its own, here."),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Time each kernel, and show how well it uses the device.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run nothing: estimate the cycles of each kernel with llvm-mca.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Which of the artifact's input shapes; default: the first.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The ONNX file for --against or --estimate, if it has moved.")
    ] = None,
    rpc: Rpc = None,
    tracker: Tracker = None,
    key: Key = None,
    ssh: Ssh = None,
    adb: Adb = None,
    emulate: Emulate = False,
    local: Local = False,
    timeout: Timeout = 20.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result with every sample, as JSON.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every sample as CSV.")] = False,
) -> None:
    """Measure the latency of ARTIFACT. Under --emulate only the path is tried: no latency is printed."""
    import json

    from edgevit.artifact import load_artifact
    from edgevit.bench.profile import ProfileResult
    from edgevit.bench.profile import profile as time_kernels
    from edgevit.bench.result import BenchResult, protocol_named
    from edgevit.bench.run import bench as measure
    from edgevit.cli.output import console, print_json, steps
    from edgevit.files import write_atomic
    from edgevit.model import parse_resolutions
    from edgevit.report.profile_table import profile_table
    from edgevit.report.tables import bench_table
    from edgevit.sources import load_source

    if estimate:
        _refuse_beside("--estimate", {"--against": against, "--profile": profile or None, "--csv": as_csv or None})
        _estimate(artifact, shape, reference, output, as_json)
        return
    chosen = protocol_named(protocol, samples=samples, seconds=min_seconds)
    if profile:
        _refuse_beside("--profile", {"--against": against, "--seconds": min_seconds, "--csv": as_csv or None})
    where = Where(rpc, tracker, key, ssh, emulate, local, timeout, adb)
    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact).at(parse_resolutions([shape] if shape else [])[0])
        model = load_source(loaded, reference, near=artifact.parent) if against else None
        with where.connect(loaded, shown) as session:
            shown.stage("measure")
            result: BenchResult | ProfileResult
            if profile:
                result = time_kernels(
                    loaded, session, samples=chosen.min_samples, threads=threads, progress=shown.share
                )
            else:
                result = measure(
                    loaded,
                    session,
                    protocol=chosen,
                    threads=threads,
                    against=against,
                    reference=model.source if model else None,
                    progress=shown.share,
                )
    if output is not None:
        write_atomic(output, json.dumps(result.to_json(), indent=1, sort_keys=True) + "\n")
    if as_json:
        print_json(result.to_json())
    elif as_csv and isinstance(result, BenchResult):
        print(result.to_csv(), end="")
    else:
        shows = console()
        shows.print(bench_table(result) if isinstance(result, BenchResult) else profile_table(result, shows.width))
        _print_notes(result.notes())


def _estimate(artifact: Path, shape: str | None, reference: Path | None, output: Path | None, as_json: bool) -> None:
    """Recompile the artifact's model for its target, kernel by kernel, and print what they may cost."""
    import json

    from edgevit.artifact import load_artifact
    from edgevit.bench.estimate import estimate
    from edgevit.cli.output import console, print_json, steps
    from edgevit.files import write_atomic
    from edgevit.model import parse_resolutions
    from edgevit.report.estimate_table import estimate_table
    from edgevit.sources import load_source
    from edgevit.tuning.records import load_tuning_log

    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact).at(parse_resolutions([shape] if shape else [])[0])
        manifest, model = loaded.manifest, load_source(loaded, reference, near=artifact.parent)
        shown.stage("estimate")
        records = load_tuning_log(manifest.target)
        result = estimate(model, manifest.target, records, progress=shown.share)
    if output is not None:
        write_atomic(output, json.dumps(result.to_json(), indent=1, sort_keys=True) + "\n")
    if as_json:
        print_json(result.to_json())
    else:
        shows = console()
        shows.print(estimate_table(result, shows.width))
        _print_notes(result.notes())


def _refuse_beside(mode: str, options: dict[str, object]) -> None:
    from edgevit.errors import UserError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UserError(
            f"{' and '.join(given)} cannot be combined with {mode}.",
            advice="--json and --output can, and --samples and --threads with --profile.",
        )


def _print_notes(notes: list[str]) -> None:
    from edgevit.cli.output import console

    printer = console()
    for note in notes:
        printer.print(note, soft_wrap=True)
