# SPDX-License-Identifier: Apache-2.0
"""What the project promises about its own code, where no linter checks it."""

from __future__ import annotations

import ast
import configparser
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from donjon import errors

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "tests", "lab", "bench", "scripts")
LICENCE = "# SPDX-License-Identifier: Apache-2.0"
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
# Where any error may be caught, because there nobody is left to whom it could go on.
DOORS = {"src/donjon/cli/main.py"}
PATCHING_ALLOWED = "tests/unit/cli/"
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def files_below(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    return [path for path in found if path.suffix in {".py", ".sh"} or path.parent.name in {"scripts", ".ci"}]


def offences(folders: tuple[str, ...], find: Callable[[ast.Module], Iterator[int]]) -> list[str]:
    """Where `find` finds something, as "path:line"."""
    modules = [path for path in files_below(*folders) if path.suffix == ".py"]
    assert modules
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in modules
        for line in find(ast.parse(path.read_text(encoding="utf-8")))
    ]


def long_functions(module: ast.Module) -> Iterator[int]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno >= LONGEST_FUNCTION:
                yield node.lineno


def broad_excepts(module: ast.Module) -> Iterator[int]:
    """Handlers of any error whatsoever that do not let it go on."""
    for node in ast.walk(module):
        if isinstance(node, ast.ExceptHandler):
            caught = {ast.unparse(name) for name in ast.walk(node.type)} if node.type else {"BaseException"}
            goes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if caught & {"Exception", "BaseException"} and not goes_on:
                yield node.lineno


def patches(module: ast.Module) -> Iterator[int]:
    """Where a test replaces part of the product behind its back."""
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names) if any(name.name.startswith("unittest") for name in names):
                yield node.lineno
            case ast.ImportFrom(module="unittest" | "unittest.mock" | "mock"):
                yield node.lineno
            case ast.Call(func=ast.Name(id="patch")):
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="monkeypatch" | "mp"), attr="setattr" | "setitem" | "delattr"):
                yield node.lineno


def real_paths(module: ast.Module) -> Iterator[int]:
    """Where a path that can be opened comes in."""
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names) if any(name.name == "pathlib" for name in names):
                yield node.lineno
            case ast.ImportFrom(module="pathlib", names=names) if not all(n.name.startswith("Pure") for n in names):
                yield node.lineno


def pure_modules() -> list[Path]:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    modules = contracts["importlinter:contract:pure"]["source_modules"].split()
    places = [ROOT / "src" / module.replace(".", "/") for module in modules]
    return [file for place in places for file in [*place.rglob("*.py"), place.with_suffix(".py")] if file.is_file()]


def test_pure_modules_know_paths_only_as_text() -> None:
    files = pure_modules()
    assert ROOT / "src/donjon/errors.py" in files
    found = [file for file in files if list(real_paths(ast.parse(file.read_text(encoding="utf-8"))))]
    assert found == []


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files_below("src")}
    assert {path: length for path, length in lengths.items() if length > LONGEST_MODULE} == {}


def test_no_function_is_too_long() -> None:
    assert offences(("src",), long_functions) == []


def test_only_the_doors_catch_every_error() -> None:
    assert {place.partition(":")[0] for place in offences(("src",), broad_excepts)} <= DOORS


def test_no_test_patches_the_product() -> None:
    found = offences(("tests",), patches)
    assert [place for place in found if not place.startswith(PATCHING_ALLOWED)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_names_its_licence_first(folder: str) -> None:
    heads = {path: path.read_text(encoding="utf-8").splitlines()[:2] for path in files_below(folder)}
    assert heads
    assert [path for path, head in heads.items() if LICENCE not in head] == []


def test_nothing_is_left_for_later() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in files_below(*FOLDERS)}
    assert [path for path, text in texts.items() if UNFINISHED.search(text)] == []


def test_every_error_says_what_the_operator_does_next() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]
    assert errors.DonjonError in classes
    for kind in classes:
        assert issubclass(kind, errors.DonjonError)
        assert "__doc__" in vars(kind), f"{kind.__name__} is not documented"


def test_the_lock_file_pins_versions_and_names_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line)] == []


def test_the_lock_file_covers_everything_the_project_asks_for() -> None:
    wanted = re.findall(r'^    "([a-z0-9-]+)>=', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert "cryptography" in wanted
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert [name for name in wanted if f"\n{name}==" not in pinned] == []


@pytest.mark.parametrize(
    ("source", "find"),
    [
        ("try:\n    f()\nexcept (OSError, Exception):\n    pass", broad_excepts),
        ("try:\n    f()\nexcept:\n    pass", broad_excepts),
        ("from unittest.mock import patch", patches),
        ("def test(monkeypatch):\n    monkeypatch.setattr(os, 'open', None)", patches),
        ("from pathlib import Path, PurePath", real_paths),
        ("def f():\n" + "    x = 1\n" * LONGEST_FUNCTION, long_functions),
    ],
)
def test_a_broken_promise_is_found(source: str, find: Callable[[ast.Module], Iterator[int]]) -> None:
    assert len(list(find(ast.parse(source)))) == 1
