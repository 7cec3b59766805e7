# SPDX-License-Identifier: Apache-2.0
"""Definitions in files: /etc/xen/*.cfg of xl, vm.cfg of Oracle VM 3. Both assign Python's literals to names.

A file is read by Python's own parser and never executed: only assignments of literals are understood.
"""

from __future__ import annotations

import ast

from msgspec.structs import replace

from donjon.audit.facts.domain import Domain
from donjon.audit.facts.domain_xen import domain_of


def parse_configurations(text: str) -> tuple[Domain, ...]:
    """The VMs of all files; each after a line "@file PATH", and "@end" after all.

    A link in /etc/xen/auto is named by its target's content: a VM that is defined there starts with the host.

    Raises:
        ValueError: it is not whole, or one file is no definition.
    """
    whole, end, _ = text.rpartition("@end")
    if not end:
        raise ValueError("it is cut off")
    domains = []
    for part in ("\n" + whole).split("\n@file ")[1:]:
        path, _, content = part.partition("\n")
        try:
            domains.append(_domain(path.strip(), content))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return tuple(domains)


def _domain(path: str, content: str) -> Domain:
    origin = "vm.cfg" if path.endswith("/vm.cfg") else "xl"
    domain = domain_of(parse_assignments(content), origin, running=False, file=path)
    if not path.startswith("/etc/xen/auto/"):
        return domain
    return replace(domain, autostart=True)


def parse_assignments(text: str) -> dict[str, object]:
    """Names and their values.

    Raises:
        ValueError: it does anything but assign literals.
    """
    try:
        module = ast.parse(text.replace("\0", ""))
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not in the format of xl.cfg") from error
    found: dict[str, object] = {}
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = _literal(value)
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                found[name] = _sum(found.get(name), _literal(value))
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                raise ValueError(f"line {statement.lineno} does not assign a value")
    return found


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"line {node.lineno} does not assign a value") from error


def _sum(before: object, more: object) -> object:
    if before is None:
        return more
    if isinstance(before, list) and isinstance(more, list):
        return [*before, *more]
    if isinstance(before, str) and isinstance(more, str):
        return before + more
    raise ValueError("adds what cannot be added")
