# SPDX-License-Identifier: Apache-2.0
"""Where log daemons send what they are told, and how.

Sources: rsyslog's documentation of omfwd, omrelp and of the old directives ($ActionSendStreamDriverMode 1 is TLS for
what follows), syslog.conf(5) (@host is UDP), syslog-ng's network(), syslog(), tcp() and udp(), journal-upload.conf(5),
audisp-remote.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, Unknown

FILES = {
    "rsyslogd": ("/etc/rsyslog.conf", "/etc/rsyslog.d/*.conf"),
    "syslogd": ("/etc/syslog.conf", ""),
    "syslog-ng": ("/etc/syslog-ng/syslog-ng.conf", "/etc/syslog-ng/conf.d/*.conf"),
    "systemd-journal-upload": ("/etc/systemd/journal-upload.conf", ""),
    "audisp-remote": ("/etc/audit/audisp-remote.conf", ""),
}
"""Program -> its file, and further ones."""


class LogTarget(Struct, frozen=True):
    """A host that gets logs. `transport`: udp, tcp, tls or krb5; `verified`: the name in the certificate is checked."""

    program: str
    host: str
    transport: str
    verified: bool = False


def read_targets(bundle: Bundle) -> Fact[tuple[LogTarget, ...]]:
    """All targets of all log daemons whose configuration is there, whether they run or not."""
    found: list[LogTarget] = []
    for program, (path, more) in FILES.items():
        main = bundle.text(path)
        others = bundle.texts(more) if more else Known({}, path)
        for fact in (main, others):
            if isinstance(fact, Unknown):
                return fact
        text = main.value if isinstance(main, Known) else ""
        if isinstance(others, Known):
            text = "\n".join([text, *(others.value[name] for name in sorted(others.value))])
        found += _PARSERS[program](text)
    return Known(tuple(found), "configuration of log daemons")


def parse_rsyslog(text: str) -> Iterator[LogTarget]:
    """Old lines "*.* @@host:port", and actions of omfwd and omrelp."""
    text = re.sub(r"(?m)(^|\s)#.*$", "", text)
    driver = re.search(r"defaultNetstreamDriver[\s=\"]+(gtls|ossl)", text, re.IGNORECASE)
    for line in re.finditer(r"(?m)^\s*[^\s$#][^\n]*?\s-?(@@?)(?:\([^)]*\))?(\[[^\]]+\]|[\w.-]+)", text):
        before = text[: line.start()].lower()
        tls = bool(driver) and _last(r"\$actionsendstreamdrivermode\s+(\S+)", before) == "1"
        transport = "udp" if line[1] == "@" else "tls" if tls else "tcp"
        named = _last(r"\$actionsendstreamdriverauthmode\s+(\S+)", before) == "x509/name"
        yield LogTarget("rsyslogd", line[2].strip("[]"), transport, transport == "tls" and named)
    for action in re.findall(r"action\s*\((.*?)\)", text, re.DOTALL | re.IGNORECASE):
        yield from _action(action, bool(driver))


def _last(pattern: str, text: str) -> str:
    """What an old directive was set to last; it holds for all that follows."""
    found = re.findall(pattern, text)
    return str(found[-1]) if found else ""


def _action(text: str, driver_is_tls: bool) -> Iterator[LogTarget]:
    values = {name.lower(): value for name, value in re.findall(r"([\w.]+)\s*=\s*\"([^\"]*)\"", text)}
    kind, host = values.get("type", "").lower(), values.get("target", "")
    if kind not in {"omfwd", "omrelp"} or not host:
        return
    if kind == "omrelp":
        tls, named = values.get("tls", "off").lower() == "on", values.get("tls.authmode", "").lower() == "name"
    else:
        own = values.get("streamdriver", "").lower() in {"gtls", "ossl"} or driver_is_tls
        tls = own and values.get("streamdrivermode", "0") == "1"
        named = values.get("streamdriverauthmode", "").lower() == "x509/name"
    clear = "tcp" if kind == "omrelp" else values.get("protocol", "udp").lower()
    yield LogTarget("rsyslogd", host, "tls" if tls else clear, tls and named)


def _syslogd(text: str) -> Iterator[LogTarget]:
    for host in re.findall(r"(?m)^\s*[^\s#][^\n]*?\s@([\w.:-]+)", text):
        yield LogTarget("syslogd", host.partition(":")[0] if host.count(":") == 1 else host, "udp")


def parse_syslog_ng(text: str) -> Iterator[LogTarget]:
    """Drivers within destinations that a log path uses."""
    text = re.sub(r"(?m)#.*$", "", text)
    used = set(re.findall(r"destination\s*\(\s*([\w.-]+)\s*\)", text))
    for name, body in re.findall(r"destination\s+([\w.-]+)\s*\{(.*?)\}\s*;", text, re.DOTALL):
        if name not in used:
            continue
        for kind, host, rest in re.findall(r"\b(network|syslog|tcp6?|udp6?)\s*\(\s*\"?([\w.:-]+)\"?([^;]*);", body):
            told = re.search(r"transport\(\s*\"?(\w+)", rest)
            transport = told[1] if told else kind[:3] if kind[:3] in {"tcp", "udp"} else "tcp"
            named = (
                re.search(r"peer-verify\(\s*\"?(yes|required-trusted)", rest) is not None or "peer-verify" not in rest
            )
            yield LogTarget("syslog-ng", host, transport, transport == "tls" and named)


def _journal_upload(text: str) -> Iterator[LogTarget]:
    for scheme, host in re.findall(r"(?m)^\s*URL\s*=\s*(https?)://(\[[^\]]+\]|[\w.-]+)", text):
        tls = scheme == "https"
        yield LogTarget("systemd-journal-upload", host.strip("[]"), "tls" if tls else "tcp", tls)


def _audisp(text: str) -> Iterator[LogTarget]:
    values = dict(re.findall(r"(?m)^\s*(\w+)\s*=\s*(\S+)", text))
    if host := values.get("remote_server"):
        kerberos = values.get("transport", "tcp").lower() == "krb5" or values.get("enable_krb5", "no").lower() == "yes"
        yield LogTarget("audisp-remote", host, "krb5" if kerberos else "tcp", kerberos)


_PARSERS = {
    "rsyslogd": parse_rsyslog,
    "syslogd": _syslogd,
    "syslog-ng": parse_syslog_ng,
    "systemd-journal-upload": _journal_upload,
    "audisp-remote": _audisp,
}
