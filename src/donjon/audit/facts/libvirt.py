# SPDX-License-Identifier: Apache-2.0
"""libvirt's daemons: their settings, and what the connection says of itself.

Source: libvirt, src/util/virconf.c; tried with libvirt 9.0: the first of several entries of one name holds, and a
daemon refuses a file with one line it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from posixpath import basename

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, derived

Settings = dict[str, str | int | tuple[str, ...]]

_DAEMON = re.compile(r"libvirtd|virt[a-z]+d")
CONTROL_DAEMONS = ("libvirtd", "virtqemud", "virtproxyd")
"""Those that run and serve VMs of QEMU; a host has libvirtd or the other two."""

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)
      | (?P<line>\r?\n)
      | (?P<text>\"{3}(?P<long>.*?)\"{3}|"(?P<double>[^"\n]*)"|'(?P<single>[^'\n]*)')
      | (?P<number>-?[0-9]+(?![\w.]))
      | (?P<name>[A-Za-z_][\w.-]*)
      | (?P<sign>[][=,])""",
    re.VERBOSE | re.DOTALL,
)


class Libvirt(Struct, frozen=True):
    """libvirt's daemons.

    `qemu` is qemu.conf; `daemons` daemon -> its settings (libvirtd, virtqemud, virtproxyd, ...): only what is set,
    defaults not filled in; `others` the rest of /etc/libvirt/*.conf, by name without ".conf" ("qemu-lockd");
    `security_models` of the capabilities ("apparmor", "dac").
    """

    version: Fact[str]
    qemu: Fact[Settings]
    daemons: Fact[dict[str, Settings]]
    security_models: Fact[tuple[str, ...]]
    others: Fact[dict[str, Settings]]


def read_libvirt(bundle: Bundle) -> Libvirt:
    """From /etc/libvirt/*.conf and virsh capabilities."""
    files = bundle.texts("/etc/libvirt/*.conf")
    return Libvirt(
        version=derived(bundle.output("libvirt-version"), _version),
        qemu=derived(bundle.text("/etc/libvirt/qemu.conf"), parse_settings),
        daemons=derived(files, lambda texts: _parsed(texts, daemons=True)),
        security_models=derived(bundle.output("libvirt-capabilities"), _security_models),
        others=derived(files, lambda texts: _parsed(texts, daemons=False)),
    )


def parse_settings(text: str) -> Settings:
    """What a file of libvirt's own syntax sets: key = "text", number, or [ list ] over several lines; # comments.

    Raises:
        ValueError: libvirt would not understand it, either; says the line.
    """
    return _Reader(text).settings()


class _Reader:
    """Reads one file, token by token."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def settings(self) -> Settings:
        found: Settings = {}
        while self._skip_lines() != "end":
            name = self._take("name")
            self._take("=")
            found.setdefault(name, self._value())
            if self._kind not in {"line", "end"}:
                raise self._refused()
        return found

    def _value(self) -> str | int | tuple[str, ...]:
        if self._kind == "number":
            return int(self._take("number"))
        return self._list() if self._kind == "[" else self._take("text")

    def _list(self) -> tuple[str, ...]:
        self._take("[")
        found: list[str] = []
        while self._skip_lines() != "]":
            found.append(self._take("number" if self._kind == "number" else "text"))
            if self._skip_lines() != "]":
                self._take(",")
        self._take("]")
        return tuple(found)

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _skip_lines(self) -> str:
        while self._kind == "line":
            self._at += 1
        return self._kind

    def _take(self, kind: str) -> str:
        if self._kind != kind:
            raise self._refused()
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _refused(self) -> ValueError:
        kind, text, line = self._tokens[self._at]
        return ValueError(f"line {line}: {'the file ends' if kind == 'end' else repr(text[:20])} is not expected here")


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each; the kind of a sign is the sign itself."""
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"line {line}: {text[at : at + 20]!r} is not expected here")
        kind, found = str(match.lastgroup), match.group()
        if kind == "text":
            found = next(part for part in match.group("long", "double", "single") if part is not None)
        if kind != "space":
            yield (found if kind == "sign" else kind), found, line
        line += match.group().count("\n")
        at = match.end()
    yield "end", "", line


def _parsed(texts: dict[str, str], *, daemons: bool) -> dict[str, Settings]:
    names = {path: basename(path).removesuffix(".conf") for path in texts}
    return {
        name: parse_settings(texts[path])
        for path, name in names.items()
        if bool(_DAEMON.fullmatch(name)) == daemons and name != "qemu"
    }


def _version(text: str) -> str:
    """The first word with a dot and digits: "libvirtd (libvirt) 9.0.0", and "9.0.0" of virsh."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    if found is None:
        raise ValueError("it names no version")
    return found.group()


def _security_models(text: str) -> tuple[str, ...]:
    if "</capabilities>" not in text:
        raise ValueError("it ends too early")
    return tuple(re.findall(r"<secmodel>\s*<model>([\w-]+)</model>", text))
