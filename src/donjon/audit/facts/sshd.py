# SPDX-License-Identifier: Apache-2.0
"""The ssh server: settings in force, Match blocks, host keys, and keys that are let in.

Sources: sshd_config(5) (the first value holds; Include; Match until the next one), sshd(8) -T, OpenSSH's release notes
for the defaults of old versions, RFC 4253 section 6.6 (how long a public key is).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Absent, Fact, Known, Unknown, derived

CONFIG = "/etc/ssh/sshd_config"
DROP_INS = "/etc/ssh/sshd_config.d/*.conf"
POLICY = "/etc/crypto-policies/back-ends/opensshserver.config"
"""What Red Hat's drop-in includes since version 9."""

Options = dict[str, tuple[str, ...]]
"""Lower-case keyword -> its values, as many as it was given."""

_MANY = frozenset({"port", "listenaddress", "allowusers", "allowgroups", "denyusers", "denygroups", "hostkey"})
_DEFAULTS = {
    "passwordauthentication": "yes",
    "kbdinteractiveauthentication": "yes",
    "permitemptypasswords": "no",
    "usepam": "no",
    "x11forwarding": "no",
    "allowtcpforwarding": "yes",
    "permittunnel": "no",
    "maxauthtries": "6",
    "logingracetime": "120",
    "authenticationmethods": "any",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
    "authorizedkeyscommand": "none",
}
_OLD_CRYPTOGRAPHY = {
    "ciphers": "aes128-ctr,aes128-cbc,3des-cbc,blowfish-cbc,cast128-cbc,arcfour",
    "macs": "hmac-md5,hmac-sha1",
    "kexalgorithms": "diffie-hellman-group14-sha1,diffie-hellman-group1-sha1",
    "hostkeyalgorithms": "ssh-rsa,ssh-dss",
}
"""What versions before 6.7 offer if they are not told."""

_ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "keyboardinteractiveauthentication": "kbdinteractiveauthentication",
    "skeyauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
}


class MatchBlock(Struct, frozen=True):
    """Settings that hold for some connections only; `criteria` as written ("User backup Address 10.0.0.0/8")."""

    criteria: str
    options: Options


class HostKey(Struct, frozen=True):
    """A key of the host. `kind`: RSA, DSA, ECDSA, ED25519."""

    kind: str
    bits: int
    fingerprint: str


class AuthorizedKey(Struct, frozen=True):
    """A key that is let in. `options` without their values; `bits` 0 if not known; `mark`: end of the public key."""

    user: str
    path: str
    options: tuple[str, ...]
    kind: str
    bits: int
    mark: str


class Sshd(Struct, frozen=True):
    """`options`: what holds where no Match block does; Absent: there is no ssh server. `version` as (9, 2)."""

    version: Fact[tuple[int, int]]
    options: Fact[Options]
    matches: Fact[tuple[MatchBlock, ...]]
    host_keys: Fact[tuple[HostKey, ...]]
    authorized_keys: Fact[tuple[AuthorizedKey, ...]]


def read_sshd(bundle: Bundle) -> Sshd:
    """From sshd -T, else its files; ssh-keygen -l; authorized_keys as the target reduced them."""
    version = derived(bundle.output("ssh-version"), _version)
    config = _config(bundle)
    return Sshd(
        version=version,
        options=_options(bundle, config, version),
        matches=derived(config, lambda parsed: parsed[1]),
        host_keys=derived(bundle.output("host-keys"), _host_keys),
        authorized_keys=derived(bundle.output("authorized-keys"), _authorized_keys),
    )


def _version(text: str) -> tuple[int, int]:
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"no version in {text[:40]!r}")
    return int(match[1]), int(match[2])


def _options(
    bundle: Bundle, config: Fact[tuple[Options, tuple[MatchBlock, ...]]], version: Fact[tuple[int, int]]
) -> Fact[Options]:
    if isinstance(bundle.ran("sshd-settings"), Absent):
        return Absent("cmd/sshd-settings")
    told = derived(bundle.output("sshd-settings"), _told)
    if isinstance(told, Known):
        return told
    from_files = derived(config, lambda parsed: _with_defaults(parsed[0], version))
    return from_files if isinstance(from_files, Known) else Unknown(f"{_why(told)}; {_why(from_files)}")


def _why(fact: Fact[Options]) -> str:
    return fact.reason if isinstance(fact, Unknown) else f"not there: {fact.source}"


def _told(text: str) -> Options:
    """The answer of sshd -T: each keyword on its own line, all defaults filled in."""
    found, _ = parse_config(text, {})
    if "permitrootlogin" not in found or "maxauthtries" not in found:
        raise ValueError("it ends too early")
    return found


def _config(bundle: Bundle) -> Fact[tuple[Options, tuple[MatchBlock, ...]]]:
    main = bundle.text(CONFIG)
    drop_ins = bundle.texts(DROP_INS)
    if isinstance(drop_ins, Unknown) and isinstance(main, Known) and re.search(r"(?mi)^\s*include\b", main.value):
        return drop_ins
    others = dict(drop_ins.value) if isinstance(drop_ins, Known) else {}
    policy = bundle.text(POLICY)
    if isinstance(policy, Known):
        others[POLICY] = policy.value
    return derived(main, lambda text: parse_config(text, others))


def parse_config(text: str, others: dict[str, str]) -> tuple[Options, tuple[MatchBlock, ...]]:
    """What a file of sshd says outside and inside of Match blocks; `others`: files that it may include.

    Raises:
        ValueError: a file that is included was not seen, or a line has no value.
    """
    everywhere: Options = {}
    blocks: list[MatchBlock] = []
    _read(text, others, everywhere, blocks)
    return everywhere, tuple(blocks)


def _read(text: str, others: dict[str, str], into: Options, blocks: list[MatchBlock]) -> None:
    """A Match block ends with the file it is in."""
    outside = into
    for line in text.splitlines():
        bare = line.partition("#")[0].strip()
        if not bare:
            continue
        words = re.fullmatch(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*)", bare)
        if words is None:
            raise ValueError(f"not a setting: {line[:40]!r}")
        name, value = words[1].lower(), words[2].strip()
        if name == "match":
            into = outside if value.lower() == "all" else {}
            if into is not outside:
                blocks.append(MatchBlock(value, into))
        elif name == "include":
            for other in _included(value, others):
                rest = {path: text for path, text in others.items() if path != other}
                _read(others[other], rest, into, blocks)
        else:
            _put(into, _ALIASES.get(name, name), value)


def _put(into: Options, name: str, value: str) -> None:
    """The first value holds. Old versions knew keyboard-interactive by two names: one yes is enough for a yes."""
    if name in _MANY:
        into[name] = (*into.get(name, ()), *value.split())
    elif name == "kbdinteractiveauthentication" and value.lower() == "yes":
        into[name] = ("yes",)
    else:
        into.setdefault(name, (value.strip('"'),))


def _included(value: str, others: dict[str, str]) -> list[str]:
    found: list[str] = []
    for pattern in value.replace('"', "").split():
        pattern = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"  # noqa: PLW2901 -- made absolute
        if pattern not in {DROP_INS, *others} and not fnmatchcase(pattern, DROP_INS):
            raise ValueError(f"{pattern} is included, but was not looked at")
        found += [path for path in sorted(others) if fnmatchcase(path, pattern)]
    return found


def _with_defaults(options: Options, version: Fact[tuple[int, int]]) -> Options:
    """Defaults that changed with versions are only put in where the version is known."""
    found = {name: tuple(value.split()) if " " in value else (value,) for name, value in _DEFAULTS.items()} | options
    if isinstance(version, Known):
        root = "prohibit-password" if version.value >= (7, 0) else "yes"
        found.setdefault("permitrootlogin", (root,))
        if version.value < (6, 7):
            found = {name: (value,) for name, value in _OLD_CRYPTOGRAPHY.items()} | found
    return {name: value for name, value in found.items() if value[0][:1] not in {"+", "-", "^"}}


def _host_keys(text: str) -> tuple[HostKey, ...]:
    found = []
    for line in text.splitlines():
        bits, fingerprint, *_, kind = line.split()
        found.append(HostKey(kind.strip("()"), int(bits), fingerprint))
    return tuple(found)


def _authorized_keys(text: str) -> tuple[AuthorizedKey, ...]:
    found = []
    for line in text.splitlines():
        user, path, options, kind, length, mark = line.split("\t")
        bits = _bits(int(length)) if kind == "ssh-rsa" else 0
        names = tuple(sorted({option.partition("=")[0].lower() for option in options.split(",") if option}))
        found.append(AuthorizedKey(user, path, names, kind, bits, mark))
    return tuple(found)


def _bits(length: int) -> int:
    """Size of an RSA key whose public part has this many letters of base64: 23 bytes are not its modulus."""
    return max(0, round((length * 3 / 4 - 23) * 8 / 64) * 64)
