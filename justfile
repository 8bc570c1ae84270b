# Tools of .venv if there is one ('just setup' makes it), else those on PATH.
bin := if path_exists(".venv/bin/edgevit") == "true" { ".venv/bin/" } else { "" }
python := if bin == "" { "python3" } else { ".venv/bin/python" }

# List the recipes
default:
    @just --list

# Make .venv with everything that development needs
setup:
    python3 -m venv .venv
    .venv/bin/pip install -q -e '.[dev]'

# Run the tests, or some: just test tests/bench -k median
test *arguments:
    {{ bin }}pytest -q -n 2 {{ arguments }}

# Check style, types and that generated pages are current
lint:
    {{ bin }}ruff check
    {{ bin }}ruff format --check
    {{ bin }}mypy
    {{ python }} docs/generate.py --check

# Repair what ruff can repair
format:
    {{ bin }}ruff check --fix
    {{ bin }}ruff format

# Rewrite the generated pages of docs/
docs:
    {{ python }} docs/generate.py

# The tour on the embedded model
demo:
    {{ bin }}edgevit demo

# Measure the embedded model beside ONNX Runtime on this machine
bench: demo
    {{ bin }}edgevit bench edgevit-demo/mobilevit-xxs-host.edgevit --against onnxruntime

# Measure models beside ONNX Runtime, LiteRT, OpenVINO, MNN and ncnn, each in an environment of its own
bench-peers *arguments:
    {{ python }} -m edgevit.bench.contenders {{ arguments }}

# Measure what each rewrite and kernel idea is worth, by leaving it out
ablate *arguments:
    {{ python }} docs/ablate.py {{ arguments }}

# Rewrite docs/paper.md: the paper's tables, measured here or on a device beside what was published
paper *arguments:
    {{ python }} docs/paper.py {{ arguments }}

# Measure what trained models recognise before and after compiling, and what a planted fault costs
recognition *arguments:
    {{ python }} docs/recognition.py {{ arguments }}

# Measure untuned against tuned artifacts and a peer: just tuning-gain MODEL.onnx --tuning-log FOLDER
tuning-gain *arguments:
    {{ python }} docs/tuning_gain.py {{ arguments }}

# Measure how many choices a second are tried, with more builders, in batches, on a Dask cluster
tuning-speed *arguments:
    {{ python }} docs/tuning_speed.py {{ arguments }}

# Compare estimates with latencies of the same choices: just estimate-agreement MODEL.onnx --tuning-log FOLDER
estimate-agreement *arguments:
    {{ python }} docs/estimate_agreement.py {{ arguments }}

# Measure a check on a thousand images: speed, memory, and whether a killed one comes to the same
long-run *arguments:
    {{ python }} docs/long_run.py {{ arguments }}

# Compile for phones and Macs, execute what was compiled under emulation, and print what that proved
verify-all *arguments:
    {{ python }} docs/verify_all.py {{ arguments }}

# What runs on every change: a clean checkout, README's two lines, all tests, lint
ci:
    .ci/run
