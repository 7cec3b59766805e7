# SPDX-License-Identifier: Apache-2.0
"""Agents of the management plane: ovs-agent and its access rule, xend, donjon's own listener.

Sources: Xen 4.4.4, tools/examples/xend-config.sxp and xen/xend/XendOptions.py (defaults). How Oracle VM's agent stores
its lists is not published: keys are looked for, and nothing is guessed where they are not found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct, field

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived
from donjon.audit.facts.domain_xm import Expression, parse_expressions

_SETTING = re.compile(r"^[ \t]*([A-Za-z_][\w.-]*)[ \t]*[=:][ \t]*(.*?)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*#.*$|(?<=\))[ \t]*#.*$", re.MULTILINE)
_ESCAPED = re.compile(r"""\\([\\'"])""")
_RECORD = re.compile(r"""['"](\w+)['"]\s*:\s*(\[[^\]]*\]|'[^']*'|"[^"]*"|[^,}\s]+)""")
_QUOTED = re.compile(r"""['"]([^'"]*)['"]""")


class OvsAgent(Struct, frozen=True):
    """Oracle VM's agent. `allow` and `deny` None: not set, which it takes for everybody and for nobody.

    `settings`: all it is set to, keys in lower case; `source`: where its lists are.
    """

    allow: str | None
    deny: str | None
    settings: dict[str, str]
    source: str


class XenApiServer(Struct, frozen=True):
    """An entry of xen-api-server: where it listens ("unix", "9363", "10.0.0.1:9363"), and how it authenticates."""

    where: str
    authentication: str = "pam"
    tls: bool = False


class Xend(Struct, frozen=True):
    """What is set in xend-config.sxp, and what is not has xend's default."""

    settings: dict[str, str] = field(default_factory=dict)
    api: tuple[XenApiServer, ...] = ()

    def on(self, key: str) -> bool:
        """Whether a switch is on; all that are asked for here are off by default."""
        return self.settings.get(key, "no") in {"yes", "true", "on", "1"}

    def text(self, key: str) -> str:
        """A setting's text, "" by default."""
        return self.settings.get(key, "")


class Listen(Struct, frozen=True):
    """How donjon's own server is told to listen. `client_ca`: who signs the certificates that clients must have."""

    bind: str = "127.0.0.1"
    allow: str | None = None
    deny: str | None = None
    client_ca: str | None = None


class Agents(Struct, frozen=True):
    """Agents; absent where their configuration is not there.

    `owner`: what the database of ovs-agent says of its manager: manager_uuid, manager_ip, pool_member_ip_list
    (addresses, separated by commas).
    """

    ovs: Fact[OvsAgent]
    owner: Fact[dict[str, str]]
    xend: Fact[Xend]
    donjon: Fact[Listen]
    switch_managers: Fact[tuple[str, ...]] = field(default_factory=lambda: Unknown("not read"))
    switch_controllers: Fact[tuple[str, ...]] = field(default_factory=lambda: Unknown("not read"))
    """Of Open vSwitch: who gives it orders, as "ssl:10.0.0.1:6640"."""


def read_agents(bundle: Bundle) -> Agents:
    """From ovs-agent's settings and database, xend-config.sxp, and donjon's server.toml."""
    owner = derived(bundle.output("ovs-agent-server"), _record)
    return Agents(
        _ovs(bundle, owner),
        owner,
        derived(bundle.text("/etc/xen/xend-config.sxp"), parse_xend),
        derived(bundle.text("/etc/donjon/server.toml"), _listen),
        derived(bundle.output("ovs-managers"), _targets),
        derived(bundle.output("ovs-controllers"), _targets),
    )


def _ovs(bundle: Bundle, owner: Fact[dict[str, str]]) -> Fact[OvsAgent]:
    """The lists are where the key "allow" is; only a store that was read and has none means that none is set."""
    ini, conf = bundle.texts("/etc/ovs-agent/*.ini"), bundle.texts("/etc/ovs-agent/*.conf")
    if not (isinstance(ini, Known) and isinstance(conf, Known)):
        return next(
            one if isinstance(one, Unknown) else Absent(one.source) for one in (ini, conf) if not isinstance(one, Known)
        )
    texts = ini.value | conf.value
    stores = {path: settings_of(text) for path, text in texts.items()}
    if isinstance(owner, Known):
        stores["cmd/ovs-agent-server"] = owner.value
    settings = {key: value for store in stores.values() for key, value in store.items()}
    for source, store in stores.items():
        if "allow" in store or "deny" in store:
            return Known(OvsAgent(store.get("allow"), store.get("deny"), settings, source), source)
    if not texts:
        return Absent("/etc/ovs-agent/*.ini")
    if isinstance(owner, Unknown):
        return Unknown(f"no list in {', '.join(texts)}, and the agent's database could not be read: {owner.reason}")
    return Known(OvsAgent(None, None, settings, ", ".join(texts)), ", ".join(texts))


def settings_of(text: str) -> dict[str, str]:
    """Pairs of "key = value" whatever the sections; comments begin a line with # or ;."""
    return {key.lower(): value.strip("'\"") for key, value in _SETTING.findall(text)}


def _record(text: str) -> dict[str, str]:
    """Pairs of a printed dictionary of Python; members of a list are joined by commas."""
    pairs = _RECORD.findall(text)
    return {key: ",".join(_QUOTED.findall(value)) if value[0] in "['\"" else value for key, value in pairs}


def parse_xend(text: str) -> Xend:
    """What xend-config.sxp sets.

    Raises:
        ValueError: it is no list of expressions.
    """
    entries = [one for one in parse_expressions(_COMMENT.sub("", text)) if isinstance(one, list) and one]
    settings = {str(entry[0]): _atom(entry) for entry in entries if isinstance(entry[0], str)}
    api = [entry[1] for entry in entries if entry[0] == "xen-api-server" and len(entry) > 1]
    servers = api[-1] if api and isinstance(api[-1], list) else []
    return Xend(settings, tuple(_api_server(one) for one in servers if isinstance(one, list) and one))


def _atom(entry: list[Expression]) -> str:
    return _ESCAPED.sub(r"\1", entry[1]) if len(entry) > 1 and isinstance(entry[1], str) else ""


def _api_server(entry: list[Expression]) -> XenApiServer:
    """(WHERE [AUTHENTICATION [HOSTS]] [key=FILE cert=FILE])."""
    words = [word for word in entry if isinstance(word, str)]
    plain = [word for word in words if not word.startswith(("key=", "cert="))]
    return XenApiServer(plain[0], plain[1] if len(plain) > 1 else "pam", len(plain) < len(words))


def _listen(text: str) -> Listen:
    try:
        found: Mapping[str, Listen] = msgspec.toml.decode(text, type=dict[str, Listen])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    return found.get("listen", Listen())


def _targets(text: str) -> tuple[str, ...]:
    return tuple(line.strip().strip('"') for line in text.splitlines() if line.strip())
