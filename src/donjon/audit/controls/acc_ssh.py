# SPDX-License-Identifier: Apache-2.0
"""Rules ACC-05 to ACC-08: the ssh server, and the keys it lets in; see the catalogue."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from donjon.audit.control import Context, control
from donjon.audit.fact import Absent, Fact, Known, Unknown, need
from donjon.audit.facts.host import Host
from donjon.audit.facts.sshd import AuthorizedKey, MatchBlock, Options
from donjon.audit.profile import Profile
from donjon.audit.verdict import Severity, Verdict, each, failed, manual, not_applicable, passed, unknown

UNITS = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket", "sshd")
_OTHER_FILE = re.compile(r"\s-f\s*(?!/etc/ssh/sshd_config(\s|$))/")
WEAK = {
    "ciphers": re.compile(r"3des|arcfour|blowfish|cast128|-cbc|^none$"),
    "macs": re.compile(r"^hmac-(md5|sha1|ripemd)|^none$"),
    "kexalgorithms": re.compile(r"-sha1(@|$)"),
    "hostkeyalgorithms": re.compile(r"^ssh-(rsa|dss)(-cert|@|$)"),
}


@control("ACC-05")
def no_password_over_ssh(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """A password can be guessed from anywhere; root's is worth the whole host."""
    if why := _no_server(host):
        yield not_applicable(why)
        return
    options = _in_force(host)
    yield _judge_passwords(options)
    for block in need(host.sshd.matches, absent=()):
        if verdict := _judge_match(block, options):
            yield verdict


def _no_server(host: Host) -> str:
    """Why no ssh server will let anybody in; "" if one runs, will be started, or that could not be seen."""
    if isinstance(host.sshd.options, Absent):
        return "there is no ssh server here"
    processes, units = host.processes.all, host.units.all
    if not isinstance(processes, Known) or isinstance(units, Unknown):
        return ""
    started = isinstance(units, Known) and any(
        name in units.value and (units.value[name].starts or units.value[name].active) for name in UNITS
    )
    if started or any(one.name.startswith("sshd") for one in processes.value):
        return ""
    return "the ssh server does not run, and nothing starts it"


def _in_force(host: Host) -> Options:
    """The settings, unless the server was started with others."""
    if isinstance(host.processes.all, Known):
        for process in host.processes.all.value:
            if process.name == "sshd" and _OTHER_FILE.search(" ".join(process.arguments)):
                return need(Unknown("sshd runs with settings of its own (-f), which were not looked at"))
    return need(host.sshd.options)


def _one(options: Options, name: str) -> str:
    """The value of a setting; "" if it is not set, and what holds by default is not known."""
    return " ".join(options.get(name, ("",))).lower()


def _asks_password(options: Options) -> bool:
    passwords = _one(options, "passwordauthentication") != "no"
    by_pam = _one(options, "kbdinteractiveauthentication") != "no" and _one(options, "usepam") != "no"
    methods = _one(options, "authenticationmethods") or "any"
    with_key = all(re.search(r"publickey|hostbased|gssapi", one) for one in methods.split())
    return (passwords or by_pam) and not with_key


def _judge_passwords(options: Options) -> Verdict:
    names = (
        "permitrootlogin",
        "passwordauthentication",
        "kbdinteractiveauthentication",
        "usepam",
        "permitemptypasswords",
    )
    evidence: dict[str, Any] = {name: _one(options, name) or "not known" for name in names}
    root, passwords = _one(options, "permitrootlogin"), _asks_password(options)
    if _one(options, "permitemptypasswords") == "yes" and passwords:
        return failed("sshd lets in accounts with an empty password", "sshd", severity=Severity.CRITICAL, **evidence)
    if passwords and root == "yes":
        return failed("sshd lets root in with a password", "sshd", **evidence)
    if passwords:
        return failed("sshd lets users in with a password", "sshd", **evidence)
    if root == "yes":
        return failed("sshd would let root in with a password, if passwords were on", "sshd", lower=1, **evidence)
    if not root:
        return unknown("whether root may log in by default could not be seen", "sshd")
    return passed("sshd asks for keys, of root too", "sshd", **evidence)


def _judge_match(block: MatchBlock, everywhere: Options) -> Verdict | None:
    together = everywhere | block.options
    if _asks_password(together) and not _asks_password(everywhere):
        what = "lets users in with a password"
    elif _one(block.options, "permitrootlogin") == "yes":
        what = "lets root in with a password" if _asks_password(together) else "would let root in with a password"
    else:
        return None
    return failed(f"sshd {what}, for Match {block.criteria}", f"sshd Match {block.criteria}", lower=1)


@control("ACC-06")
def ssh_cryptography_is_current(host: Host, context: Context) -> Iterable[Verdict]:  # noqa: ARG001
    """Broken algorithms stay on for clients that nobody has any more."""
    if why := _no_server(host):
        yield not_applicable(why)
        return
    options = _in_force(host)
    old = 1 if "O" in need(host.platform.kinds) else 0
    for name, weak in WEAK.items():
        if name not in options:
            yield unknown(f"which {name} sshd offers could not be seen", name)
            continue
        offered = options[name][0].split(",")
        bad = [one for one in offered if weak.search(one)]
        if bad:
            yield failed(f"sshd offers weak {name}: {', '.join(bad)}", name, lower=old, offered=offered)
        else:
            yield passed(f"sshd offers no weak {name}", name, offered=offered)
    for key in need(host.sshd.host_keys, absent=()):
        subject = f"host key {key.kind}"
        evidence: dict[str, Any] = {"bits": key.bits, "fingerprint": key.fingerprint}
        if key.kind == "DSA" or (key.kind in {"RSA", "RSA1"} and key.bits < 2048):
            yield failed(f"the host key is {key.kind} with {key.bits} bits", subject, lower=old, **evidence)
        else:
            yield passed(f"the host key is {key.kind} with {key.bits} bits", subject, **evidence)


@control("ACC-07")
def ssh_surface_is_small(host: Host, context: Context) -> Iterable[Verdict]:
    """What sshd offers besides a shell leads further into the management network."""
    if why := _no_server(host):
        yield not_applicable(why)
        return
    options = _in_force(host)
    yield from _judge_surface(options)
    if context.profile.networks.management:
        yield _judge_listen(options, context.profile)


def _judge_surface(options: Options) -> Iterator[Verdict]:
    if any(name in options for name in ("allowusers", "allowgroups")):
        yield passed("only listed accounts may log in", "allowusers")
    else:
        yield failed("sshd lets in any account (no AllowUsers or AllowGroups)", "allowusers", lower=1)
    for name, good, lower in (("x11forwarding", "no", 0), ("permittunnel", "no", 0), ("allowtcpforwarding", "no", 1)):
        value = _one(options, name)
        told = f"{name} is {value or 'not known'}"
        yield passed(told, name) if value == good else failed(told, name, lower=lower, value=value)
    yield _judge_number(options, "maxauthtries", 6)
    yield _judge_number(options, "logingracetime", 120)


def _judge_number(options: Options, name: str, most: int) -> Verdict:
    value = _seconds(" ".join(need(Known(options[name], name) if name in options else Unknown(f"{name} is not known"))))
    if 0 < value <= most:
        return passed(f"{name} is {value}", name)
    return failed(f"{name} is {value or 'without limit'}, more than {most}", name, value=value)


def _seconds(text: str) -> int:
    """sshd_config(5), "TIME FORMATS": 90, 90s, 1m30s."""
    parts = re.findall(r"(\d+)([smhdw]?)", text)
    if not parts:
        raise ValueError(f"not a time: {text}")
    return sum(
        int(number) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit] for number, unit in parts
    )


def _judge_listen(options: Options, profile: Profile) -> Verdict:
    networks = profile.networks.of("management")
    addresses = options.get("listenaddress", ("0.0.0.0",))  # noqa: S104 -- what sshd does if it is not told
    outside = [text for text in addresses if not _inside(text, networks)]
    if outside:
        return failed("sshd listens outside of the management network", "listenaddress", addresses=outside)
    return passed("sshd listens on the management network only", "listenaddress", addresses=addresses)


def _inside(text: str, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    bare = re.sub(r"^\[(.*)\](:\d+)?$|^([^:]+):\d+$", lambda found: found[1] or found[3], text).partition("%")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    return address.is_loopback or any(address in network for network in networks)


@control("ACC-08")
def authorized_keys_are_clean(host: Host, context: Context) -> Iterable[Verdict]:
    """A key that is let in is a password that never changes; root's should say from where, or for what."""
    yield from _judge_places(host.sshd.options)
    keys = need(host.sshd.authorized_keys)
    yield from each(
        keys,
        lambda key: _judge_key(key, context),
        subject=lambda key: f"{key.path}#{key.mark}",
        none="no key is let in",
    )


def _judge_places(settings: Fact[Options]) -> Iterator[Verdict]:
    if isinstance(settings, Unknown):
        yield unknown(f"where keys are could not be seen: {settings.reason}", "authorizedkeysfile")
    options = settings.value if isinstance(settings, Known) else {}
    places = _one(options, "authorizedkeysfile").split()
    other = [
        one
        for one in places
        if one.removeprefix("%h/") not in {".ssh/authorized_keys", ".ssh/authorized_keys2", "none"}
    ]
    if other:
        yield unknown(f"keys are let in by {', '.join(other)}, which was not looked at", "authorizedkeysfile")
    command = _one(options, "authorizedkeyscommand")
    if command not in {"", "none"}:
        yield manual(f"keys are let in by the program {command.split()[0]}, too: attest them", "authorizedkeyscommand")


def _judge_key(key: AuthorizedKey, context: Context) -> Verdict:
    evidence: dict[str, Any] = {
        "file": key.path,
        "kind": key.kind,
        "options": key.options,
        "bits": key.bits or "not counted",
    }
    if key.kind == "?":
        return unknown(f"a line of {key.path} cannot be understood")
    if "dss" in key.kind:
        return failed(f"a DSA key is let in as {key.user}", **evidence)
    if key.kind == "ssh-rsa" and key.bits < 2048:
        return failed(f"an RSA key of {key.bits} bits is let in as {key.user}", **evidence)
    if key.user == "root" and not {"from", "command"} & set(key.options):
        text = "a key is let in as root from anywhere, for anything"
        return failed(text, severity=Severity.MEDIUM, **evidence)
    hosts = [one.platform.name for one in context.fleet if key.mark in _marks(one)]
    if len(hosts) > context.profile.limits.key_hosts:
        text = f"the same key is let in on {len(hosts)} hosts"
        return failed(text, severity=Severity.INFO, **evidence)
    return passed(f"the key is let in as {key.user}", **evidence)


def _marks(host: Host) -> set[str]:
    keys = host.sshd.authorized_keys
    return {key.mark for key in keys.value} if isinstance(keys, Known) else set()
