"""Write what the documentation says of commands and presets from the code that defines them.

python docs/generate.py           rewrite docs/commands.md and the table of docs/targets.md
python docs/generate.py --check   change nothing; exit 1 if a page is out of date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

DOCS = Path(__file__).resolve().parent
_HEAD = """\
# Commands

Generated from the command line's own definition by `just docs`; do not edit.

| command | what it does |
|---|---|
"""
_TAIL = """\
## Exit codes

| code | meaning |
|---|---|
| 0 | good |
| 1 | everything worked and the answer is no: a check failed, a model cannot be compiled |
| 2 | the request or its input is wrong |
| 3 | the device or the toolchain failed |
| 130 | interrupted by Ctrl-C or SIGTERM |

## Environment variables

| variable | meaning |
|---|---|
| `EDGEVIT_CACHE_DIR` | folder of what can be made again, such as device servers; default: the user's cache |
| `EDGEVIT_TUNING_DIR` | folder of your own tuning records; default: `tuning_logs` in the user's data folder |
| `EDGEVIT_SSH` | the command to use in place of `ssh` |
| `EDGEVIT_ADB` | the command to use in place of `adb` |
| `ANDROID_SERIAL` | the phone that `--adb` without a serial means, as for `adb` |
| `ANDROID_ADB_SERVER_PORT` | where adb's server listens, as for `adb`; default: 5037 |
| `ANDROID_NDK_HOME` | an installed Android NDK, for `--linker ndk` |
"""


def pages() -> dict[Path, str]:
    """Every generated page with the text it should have."""
    targets = DOCS / "targets.md"
    return {
        DOCS / "commands.md": commands_page(),
        targets: _replace_between(targets.read_text(encoding="utf-8"), "presets", presets_table()),
    }


def commands_page() -> str:
    """The reference of all commands, as Markdown."""
    from edgevit.cli.main import app

    found = list(_commands(app, "edgevit"))
    rows = [f"| [`{name}`](#{_anchor(name)}) | {_summary(run)} |\n" for name, run in found]
    everywhere = [
        "## edgevit\n\nOptions that come before the command:\n\n",
        _options(app.registered_callback.callback if app.registered_callback else None),
        "\n",
    ]
    return _HEAD + "".join([*rows, "\n", *everywhere, *(_section(name, run) for name, run in found)]) + _TAIL


def presets_table() -> str:
    """The shipped targets, as a Markdown table."""
    from edgevit.targets import list_targets

    rows = [
        f"| `{target.name}` | {', '.join(f'`{alias}`' for alias in target.aliases)} | {target.description} |\n"
        for target in list_targets()
        if target.name != "host"
    ]
    host = "| `host` | `native` | This machine, as detected |\n"
    return "| name | aliases | device |\n|---|---|---|\n" + host + "".join(rows)


def _commands(app: typer.Typer, prefix: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__.replace('_', '-')}", command.callback
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{prefix} {group.name or group.typer_instance.info.name}")


def _section(name: str, run: Callable[..., Any]) -> str:
    described = [(label, info) for label, info, _ in _parameters(run) if isinstance(info, ArgumentInfo)]
    usage = " ".join([name, *(label for label, _ in described), "[OPTIONS]"])
    arguments = "".join(f"- `{label}`: {_cell(info.help)}\n" for label, info in described)
    parts = [f"## {name}\n", _text(run), f"```text\n{usage}\n```\n", arguments, _options(run)]
    return "\n".join(part for part in parts if part) + "\n"


def _options(run: Callable[..., Any] | None) -> str:
    if run is None:
        return ""
    rows = [
        f"| {label} | {_cell(info.help)} | {_default(default)} |\n"
        for label, info, default in _parameters(run)
        if isinstance(info, OptionInfo) and not info.hidden
    ]
    return "| option | meaning | default |\n|---|---|---|\n" + "".join(rows) if rows else ""


def _parameters(run: Callable[..., Any]) -> Iterator[tuple[str, ArgumentInfo | OptionInfo, Any]]:
    """Label, Typer's description and default of each parameter of a command."""
    hints = get_type_hints(run, include_extras=True)
    for name, parameter in inspect.signature(run).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:
            continue
        kind, *extras = get_args(hint)
        info = next((extra for extra in extras if isinstance(extra, ArgumentInfo | OptionInfo)), None)
        if info is None:
            continue
        default = parameter.default
        if isinstance(info, ArgumentInfo):
            label = info.metavar or name.upper()
            yield (label if default is inspect.Parameter.empty else f"[{label}]"), info, default
        else:
            yield _option_label(name, info, kind), info, default


def _option_label(name: str, info: OptionInfo, kind: object) -> str:
    # In an annotation the first spelling takes the place of Typer's default.
    first = [info.default] if isinstance(info.default, str) else []
    spelled = [*first, *(info.param_decls or ())] or [f"--{name.replace('_', '-')}"]
    value = "" if kind is bool else f" {info.metavar or _value_name(kind)}"
    # The long form first.
    spelled.sort(key=lambda text: not text.startswith("--"))
    return ", ".join(f"`{text}{value}`" for text in spelled)


def _value_name(kind: object) -> str:
    kinds = {kind, *get_args(kind)}
    kinds |= {inner for outer in get_args(kind) for inner in get_args(outer)}
    for python, word in ((Path, "PATH"), (int, "N"), (float, "X")):
        if python in kinds:
            return word
    return "TEXT"


def _default(default: object) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    if default is None or default is False:
        return ""
    return "yes" if default is True else f"`{default}`"


def _text(run: Callable[..., Any]) -> str:
    return f"{inspect.cleandoc(run.__doc__ or '')}\n"


def _summary(run: Callable[..., Any]) -> str:
    return _cell(_text(run).split("\n\n")[0])


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _replace_between(page: str, marker: str, text: str) -> str:
    begin, end = f"<!-- generated: {marker} -->\n", f"<!-- end: {marker} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: begin + text + end, page)


def main(arguments: list[str]) -> int:
    """Write the pages, or with ``--check`` name those that are out of date."""
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.name} is out of date: run 'just docs'", file=sys.stderr)
        return bool(stale)
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
