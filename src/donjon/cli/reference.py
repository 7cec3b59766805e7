# SPDX-License-Identifier: Apache-2.0
"""The reference pages of the documentation, made from the verbs themselves: `python -m donjon.cli.reference docs`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
from cyclopts import App, Argument

from donjon.audit.report.report import Report
from donjon.cli.app import load_verb, make_app, verb_names
from donjon.cli.controls_page import controls_page
from donjon.cli.options import EVERYWHERE
from donjon.cli.result import Failure

_CLI_HEAD = """\
# Command line

Every verb of `donjon`. This page is made from the program: `python -m donjon.cli.reference docs`.

Options may stand before or after the verb. What a verb ends with is in [exit-codes.md](exit-codes.md), what `--json`
prints in [json.md](json.md), the configuration file in [configuration.md](configuration.md).
"""

_JSON_HEAD = """\
# JSON

With `--json` every verb prints exactly one JSON object on standard output. Sizes are in bytes, durations in seconds,
times in UTC (RFC 3339). Fields may be added in later versions; none is renamed or taken away without a word in the
changelog. This page is made from the program: `python -m donjon.cli.reference docs`.

When a verb fails, the object is that of [error.json](schemas/error.json):

    {"error": "cannot open a repository at /backup: there is none", "hint": "check the address; ...", "exit_code": 10,
     "notes": []}

`hint` may be null; `notes` say what went wrong besides, as what could not be put back. All of it is on standard error
as well.

A report of an audit (`donjon audit run --format json`) is that of [report.json](schemas/report.json).

| verb | schema | what it says |
|---|---|---|
"""


def pages() -> dict[str, str]:
    """All pages, by their path below the documentation."""
    app = make_app()
    made = {"cli.md": "\n".join([_CLI_HEAD, *_command_line(app)]), "schemas/error.json": _schema(Failure)}
    rows = []
    for words in verb_names():
        result = _result_type(load_verb(app, words))
        file = f"schemas/{'-'.join(words)}.json"
        made[file] = _schema(result)
        kinds = [kind for kind in get_args(result) or (result,) if kind is not type(None)]
        says = " Or: ".join((inspect.getdoc(kind) or "").partition("\n")[0] for kind in kinds)
        rows.append(f"| `{' '.join(words)}` | [{file}]({file}) | {says} |")
    made["schemas/report.json"] = _schema(Report)
    made["controls.md"] = controls_page()
    made["json.md"] = _JSON_HEAD + "\n".join(rows) + "\n"
    return made


def write(directory: Path) -> None:
    """Write all pages below a directory."""
    for name, text in pages().items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _command_line(app: App) -> Iterator[str]:
    yield "## Options of every verb\n"
    first = load_verb(app, verb_names()[0])
    yield from _options(argument for argument in _arguments(first) if _is_everywhere(argument))
    for words in verb_names():
        verb = load_verb(app, words)
        own = [argument for argument in _arguments(verb) if not _is_everywhere(argument)]
        positional = [argument for argument in own if not _option_names(argument)]
        usage = " ".join(["donjon", *words, *map(_placeholder, positional), "[OPTIONS]"])
        yield f"## donjon {' '.join(words)}\n\n    {usage}\n\n{verb.help}\n"
        if own:
            yield from _options(own)
        if verb.help_epilogue:
            yield str(verb.help_epilogue).replace("Examples:\n", "Examples:\n\n") + "\n"


def _arguments(verb: App) -> list[Argument]:
    return [argument for argument in verb.assemble_argument_collection(parse_docstring=True) if argument.show]


def _is_everywhere(argument: Argument) -> bool:
    groups = argument.parameter.group
    return groups is EVERYWHERE or (isinstance(groups, tuple) and EVERYWHERE in groups)


def _option_names(argument: Argument) -> list[str]:
    return [name for name in argument.names if name.startswith("-")]


def _placeholder(argument: Argument) -> str:
    name = argument.parameter.metavar or argument.names[0].upper()
    name = f"{name}..." if argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL else name
    return name if argument.required else f"[{name}]"


def _options(arguments: Iterator[Argument] | list[Argument]) -> Iterator[str]:
    yield "| option | |\n|---|---|"
    for argument in arguments:
        names = _option_names(argument)
        value = argument.parameter.metavar if names and argument.parameter.metavar else ""
        shown = ", ".join(names) if names else _placeholder(argument)
        option = f"{shown} {value}".rstrip().replace("|", "\\|")
        text = (argument.parameter.help or "").replace("|", "\\|")
        yield f"| `{option}` | {text} |"
    yield ""


def _result_type(verb: App) -> Any:
    assert verb.default_command
    return get_type_hints(verb.default_command)["return"]


def _schema(result: Any) -> str:
    kinds = [kind for kind in get_args(result) or (result,) if kind is not type(None)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": components}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]))
