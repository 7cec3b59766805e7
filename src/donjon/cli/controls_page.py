# SPDX-License-Identifier: Apache-2.0
"""The page of all controls, made from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from donjon.audit.catalogue import KINDS, Control, FixClass, catalogue
from donjon.audit.controls import rules

_HEAD = """\
# Controls

What `donjon audit` judges; `donjon audit controls ID` tells the same. This page is made from the catalogue:
`python -m donjon.cli.reference docs`.

A control says of each subject (a host, a VM, a file, a port): **pass**, **fail**, **not applicable**, **unknown** (what
is needed could not be seen, or not be believed; never counted as passed), or **manual** (no program can see it: a
person attests it in the profile). Hosts: {kinds}.

How far `donjon harden` goes: **automatic** changes are of files and can be undone at any time; **guarded** ones could
cut the administrator off, so their undoing is armed first and happens by itself unless they are confirmed from a new
connection; **next boot** ones are written down and take effect when the host or the guest starts next;
**instructions** are never carried out by donjon.
"""

_FIXES = {
    FixClass.AUTOMATIC: "automatic",
    FixClass.GUARDED: "guarded",
    FixClass.NEXT_BOOT: "next boot",
    FixClass.INSTRUCTIONS: "instructions",
}


def controls_page() -> str:
    """The page in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    known = catalogue()
    implemented = set(rules())
    yield _HEAD.format(kinds=", ".join(f"{letter} is {name}" for letter, name in KINDS.items()))
    judged = sum(one.id in implemented for one in known.controls)
    yield f"{len(known.controls)} controls, {judged} of them judged; the others are listed in every report.\n"
    for area, title in known.areas.items():
        yield f"## {area}: {title}\n"
        for control in known.controls:
            if control.area == area:
                yield from _control(control, judged=control.id in implemented)
    yield "## Principles\n"
    yield "| | |\n|---|---|"
    yield from (f"| {number} | {text} |" for number, text in known.principles.items())
    yield ""


def _control(control: Control, *, judged: bool) -> Iterator[str]:
    fix = _FIXES[control.fix_class]
    state = "" if judged else ", not judged yet"
    yield f"### {control.id} {control.title}\n"
    yield f"{control.severity.value}, {control.hosts}, {control.attack_path.value}{state}\n"
    yield f"- Looks at: {control.inspect}"
    yield f"- Rule: {control.rule}"
    yield f"- Evidence: {control.evidence}"
    yield f"- Fix ({fix}): {control.fix}"
    sources = [f"{name} {', '.join(ids)}" for name, ids in control.frameworks.items()]
    yield f"- From: {'; '.join([', '.join(control.principles), *sources])}\n"
