# SPDX-License-Identifier: Apache-2.0
"""Edits of a VM's definition as virsh prints it, one element or part of it a line; every other byte stays.

Source: libvirt.org/formatdomain.html; tried with libvirt 9.0, which indents by two blanks and quotes with '.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import unescape

from donjon.harden.editors import Rewrite

_DEVICES = re.compile(r"(?ms)^  <devices>\n.*?^  </devices>\n")
_RAW = re.compile(r"(?ms)^  <qemu:commandline>\n(.*?)^  </qemu:commandline>\n")
_VALUE = re.compile(r"^    <qemu:arg value='([^']*)'/>$")


def one_after_another(*rewrites: Rewrite) -> Rewrite:
    """All of these, in this order."""

    def rewrite(text: str) -> str:
        for one in rewrites:
            text = one(text)
        return text

    return rewrite


def each_device(tag: str, change: Callable[[str], str]) -> Rewrite:
    """What `change` makes of the lines of each device of this kind; "" takes it away. The rewrite raises ValueError."""
    element = re.compile(rf"(?ms)^    <{tag}(?=[ />])(?:[^\n]*(?:/>|</{tag}>)\n|.*?^    </{tag}>\n)")

    def rewrite(xml: str) -> str:
        if not _DEVICES.search(xml):
            raise ValueError("the definition is not written as virsh does")
        return _DEVICES.sub(lambda devices: element.sub(lambda one: change(one[0]), devices[0]), xml)

    return rewrite


def with_part(block: str, part: str) -> str:
    """A device with one more part, its last. `part` without blanks before it; the device must have parts already."""
    head, end = block.rstrip("\n").rsplit("\n", 1)
    return f"{head}\n      {part}\n{end}\n"


def without_part(block: str, *tags: str) -> str:
    """A device without its parts of these kinds."""
    for tag in tags:
        block = re.sub(rf"(?ms)^      <{tag}(?=[ />])(?:[^\n]*(?:/>|</{tag}>)\n|.*?^      </{tag}>\n)", "", block)
    return block


def without_arguments(unwanted: Callable[[list[str]], Iterable[int]]) -> Rewrite:
    """QEMU's raw arguments without those whose places `unwanted` gives; other raw settings stay."""

    def change(raw: re.Match[str]) -> str:
        lines = raw[1].splitlines()
        places = [at for at, line in enumerate(lines) if _VALUE.match(line)]
        values = [unescape(found[1]) for line in lines if (found := _VALUE.match(line))]
        gone = {places[number] for number in unwanted(values)}
        left = [line for at, line in enumerate(lines) if at not in gone]
        return raw[0].replace(raw[1], "".join(f"{line}\n" for line in left)) if left else ""

    return lambda xml: _RAW.sub(change, xml)
