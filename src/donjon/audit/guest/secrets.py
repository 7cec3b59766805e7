# SPDX-License-Identifier: Apache-2.0
"""Secrets that lie in a guest's files: found by name and content, told of by path and rule, never by value.

Source: the formats of tokens as AWS, GitHub, GitLab and Slack document them; RFC 7468 and RFC 4880 of armoured keys.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from donjon.audit.fact import Unseen
from donjon.audit.facts.guests import Secret
from donjon.audit.guest.tree import GuestTree

PLACES = {
    "/root": 4,
    "/home": 5,
    "/etc": 3,
    "/var/lib/cloud": 4,
    "/opt": 3,
    "/srv": 3,
    "/tmp": 2,  # noqa: S108 -- of the guest
    "/var/tmp": 2,  # noqa: S108 -- of the guest
    "/var/www": 3,
    "/var/backups": 1,
}
LONGEST = 64 << 10
MOST_FILES = 400
_HOST_KEY = re.compile(r"/etc/ssh/ssh_host_\w+_key(\.pub)?$")
_BY_NAME = (
    ("shell history", re.compile(r"/\.(bash|zsh|sh|ash|mysql|psql|python|rediscli|node_repl)_history$|/\.viminfo$")),
    ("authorized keys", re.compile(r"/\.ssh/authorized_keys2?$")),
    (
        "cloud credentials",
        re.compile(r"/\.aws/credentials$|/\.config/gcloud/.*(credentials|\.json)|/\.azure/.*\.json$"),
    ),
    ("saved login", re.compile(r"/\.(netrc|pgpass|git-credentials|my\.cnf|smbcredentials|vault-token)$")),
    ("cluster access", re.compile(r"/\.kube/config$|/etc/kubernetes/\w+\.conf$")),
    ("cloud-init user data", re.compile(r"/var/lib/cloud/(instances?|seed)/.*(user-data|vendor-data|user-data\.txt)$")),
    ("vault password", re.compile(r"/\.?(ansible[_-]?)?vault[_-]?pass(word)?(\.txt)?$")),
    ("Kerberos keys", re.compile(r"\.keytab$")),
    ("database dump", re.compile(r"(?<!/schema)\.(sql|dump)(\.(gz|xz|zst|bz2))?$|/dump\.rdb$")),
)
_BY_CONTENT = (
    ("private key", re.compile(r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----")),
    ("PGP private key", re.compile(r"-----BEGIN PGP PRIVATE KEY BLOCK-----")),
    ("AWS key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("GitHub token", re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}")),
    ("GitLab token", re.compile(r"\bglpat-[\w-]{20}")),
    ("Slack token", re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{20}")),
    ("registry login", re.compile(r'"auths"\s*:\s*\{[^}]*"auth"\s*:\s*"[^"]{8}')),
    ("wireless password", re.compile(r"(?m)^\s*(?:psk|wep-key0|password)\s*=\s*\S")),
)
_WIRELESS = re.compile(r"/(NetworkManager/system-connections|wpa_supplicant|iwd)/")
_ASSIGNED = re.compile(
    r"(?i)(?:passw(?:or)?d|passphrase|secret|token|api_?key)[\"']?\s*[=:]\s*[\"']?([^\s\"';,]{12,200})"
)
_WORTH_READING = re.compile(
    r"(?i)\.(conf|cnf|cfg|ini|env|ya?ml|json|toml|properties|key|pem|sh|txt|service|rc|xml|tfstate|nmconnection)$"
    r"|passw|secret|cred|token|/id_\w+$|/\.[\w.-]+$|vault"
)
_ENTROPY = 3.7


def find_secrets(tree: GuestTree) -> tuple[Secret, ...]:
    """All that are found where secrets lie. Raises Unseen: none was found for certain, and not all could be seen."""
    found: dict[tuple[str, str], Secret] = {}
    unseen = ""
    left = MOST_FILES
    for place, depth in PLACES.items():
        try:
            for path, size in _candidates(tree, place, depth):
                found |= {(one.path, one.rule): one for one in by_name(path, size)}
                if not _to_be_read(path, size):
                    continue
                left -= 1
                if left < 0:
                    raise Unseen(f"there are too many files in {place}")
                found |= {(one.path, one.rule): one for one in in_content(path, tree.text(path))}
        except Unseen as reason:
            unseen = unseen or str(reason)
    if unseen and not any(one.certain for one in found.values()):
        raise Unseen(unseen)
    return tuple(sorted(found.values(), key=lambda one: (not one.certain, one.path, one.rule)))


def by_name(path: str, size: int) -> Iterator[Secret]:
    """What the name of a file that is not empty gives away."""
    if size and not _HOST_KEY.search(path):
        yield from (Secret(path, rule) for rule, pattern in _BY_NAME if pattern.search(path))


def in_content(path: str, text: str) -> Iterator[Secret]:
    """What the content of a file gives away."""
    if _HOST_KEY.search(path):
        return
    certain = [
        rule
        for rule, pattern in _BY_CONTENT
        if pattern.search(text) and (rule != "wireless password" or _WIRELESS.search(path))
    ]
    yield from (Secret(path, rule) for rule in certain)
    if not certain and any(entropy(value) >= _ENTROPY for value in _ASSIGNED.findall(text)):
        yield Secret(path, "something like a password", certain=False)


def entropy(text: str) -> float:
    """Of its characters, in bits each; words have less than 3.5, random ones more."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def _candidates(tree: GuestTree, place: str, depth: int) -> Iterator[tuple[str, int]]:
    return ((path, entry.size) for path, entry in tree.files(place, depth))


def _to_be_read(path: str, size: int) -> bool:
    homely = path.startswith(("/root/", "/home/"))
    return (
        0 < size <= LONGEST and (homely or bool(_WORTH_READING.search(path))) and not path.startswith("/etc/ssl/certs")
    )
