# SPDX-License-Identifier: Apache-2.0
"""The Xen hypervisor: what xl info says, boot options, build options, its messages.

Source: xl(1), xl.conf(5), xen-command-line(7); recorded with Xen 4.17.
"""

from __future__ import annotations

import re
from ast import literal_eval

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, Unknown, derived, first_known

_PREFIX = re.compile(r"^\(XEN\) (?:\[[^]]*\] )?")
_SETTING = re.compile(r"\s*(\w+)\s*=\s*(.*?)\s*(?:#.*)?")


class Xen(Struct, frozen=True):
    """Facts of Xen.

    `branch` is (4, 17); `options` the words of its command line; `build`: "CONFIG_NAME" -> "y" or text, only of what is
    set; `messages`: all that its ring buffer still holds, without prefix; `flask`: "Enforcing", "Permissive",
    "Disabled"; `settings` of xl.conf.
    """

    version: Fact[str]
    branch: Fact[tuple[int, int]]
    options: Fact[tuple[str, ...]]
    capabilities: Fact[tuple[str, ...]]
    build: Fact[dict[str, str]]
    messages: Fact[tuple[str, ...]]
    flask: Fact[str]
    settings: Fact[dict[str, str]]


def read_xen(bundle: Bundle) -> Xen:
    """From xl info, xl dmesg, xenhypfs, xl getenforce and /etc/xen/xl.conf."""
    info = derived(bundle.output("xen-info"), _info)
    messages = derived(bundle.output("xen-messages"), _messages)
    return Xen(
        version=derived(info, lambda words: words["xen_version"]),
        branch=derived(info, lambda words: (int(words["xen_major"]), int(words["xen_minor"]))),
        options=first_known(derived(info, lambda words: tuple(words["xen_commandline"].split())), _said(messages)),
        capabilities=derived(info, lambda words: tuple(words["virt_caps"].split())),
        build=derived(bundle.output("xen-build"), _build),
        messages=messages,
        flask=_flask(bundle),
        settings=derived(bundle.text("/etc/xen/xl.conf"), _settings),
    )


def _info(text: str) -> dict[str, str]:
    rows = [line.partition(":") for line in text.splitlines() if ":" in line]
    words = {name.strip(): value.strip() for name, _, value in rows}
    if "xen_major" not in words:
        raise ValueError("it does not say which version of Xen runs")
    return words


def _messages(text: str) -> tuple[str, ...]:
    return tuple(_PREFIX.sub("", line) for line in text.splitlines())


def _said(messages: Fact[tuple[str, ...]]) -> Fact[tuple[str, ...]]:
    """The command line in the messages of the start, if they are still there."""

    def parse(lines: tuple[str, ...]) -> tuple[str, ...]:
        found = [line.partition(": ")[2] for line in lines if line.startswith("Command line: ")]
        if not found:
            raise ValueError("the messages of the start are gone")
        return tuple(found[0].split())

    return derived(messages, parse)


def _build(text: str) -> dict[str, str]:
    words = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CONFIG_"))
    if not words:
        raise ValueError("no option is set")
    return words


def _flask(bundle: Bundle) -> Fact[str]:
    """The command xl getenforce fails where Flask is not built in or disabled, and says so."""
    ran = bundle.ran("xen-flask")
    if not isinstance(ran, Known):
        return ran
    found = re.search(r"Enforcing|Permissive|Disabled", ran.value.out + ran.value.err)
    return Known(found[0], ran.source) if found else Unknown(f"{ran.source} cannot be understood")


def _settings(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            setting = _SETTING.fullmatch(line)
            if setting is None:
                raise ValueError(f"{line[:40]!r} sets nothing")
            found[setting[1]] = _value(setting[2])
    return found


def _value(text: str) -> str:
    try:
        return str(literal_eval(text))
    except (ValueError, SyntaxError):
        return text.strip("\"'")
