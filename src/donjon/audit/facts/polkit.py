# SPDX-License-Identifier: Apache-2.0
"""Whom polkit lets manage libvirt without asking for a password.

Rules in JavaScript are read, not run: of each function that may answer YES for libvirt, the users and groups it names.
Sources: polkit(8) "Authorization rules"; pklocalauthority(8); libvirt's org.libvirt.unix.policy.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from msgspec import Struct

from donjon.audit.bundle import Bundle
from donjon.audit.fact import Fact, Known, Unknown

MANAGE = "org.libvirt.unix.manage"
RULES = tuple(f"{folder}/polkit-1/rules.d/*.rules" for folder in ("/etc", "/usr/share", "/usr/local/share"))
PKLA = ("/etc/polkit-1/localauthority/*/*.pkla", "/var/lib/polkit-1/localauthority/*/*.pkla")
POLICY = "/usr/share/polkit-1/actions/org.libvirt.unix.policy"


class Grant(Struct, frozen=True):
    """One place that lets somebody in. Neither users nor groups: anybody. `clear` is false if it could be more."""

    where: str
    users: tuple[str, ...]
    groups: tuple[str, ...]
    clear: bool = True


def read_grants(bundle: Bundle) -> Fact[tuple[Grant, ...]]:
    """From polkit's rules, its local authority of old, and the defaults of libvirt's actions."""
    folders = (bundle.paths.below("/etc/polkit-1", 2), bundle.paths.below("/usr/share/polkit-1/rules.d"))
    texts: dict[str, str] = {}
    for fact in (*folders, *(bundle.texts(pattern) for pattern in (*RULES, *PKLA)), bundle.text(POLICY)):
        if isinstance(fact, Unknown):
            return fact
        if isinstance(fact, Known) and isinstance(fact.value, dict):
            texts |= fact.value
        elif isinstance(fact, Known) and isinstance(fact.value, str):
            texts[POLICY] = fact.value
    return Known(tuple(grant for path in sorted(texts) for grant in _grants(path, texts[path])), "/etc/polkit-1")


def _grants(path: str, text: str) -> list[Grant]:
    if path.endswith(".rules"):
        return parse_rules(path, text)
    return parse_pkla(path, text) if path.endswith(".pkla") else _parse_policy(path, text)


def parse_rules(path: str, text: str) -> list[Grant]:
    """A grant for each rule that may answer YES, and speaks of libvirt or of no action in particular."""
    without_comments = re.sub(
        r"/\*.*?\*/|(?<![:\"'])//[^\n]*", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL
    )
    found = []
    at = 0
    for block in re.split(r"(?=polkit\.addRule\s*\()", without_comments):
        line, at = without_comments.count("\n", 0, at) + 1, at + len(block)
        if not re.search(r"polkit\.Result\.YES|[\"']yes[\"']", block):
            continue
        actions = re.findall(r"[\"'](org\.[\w.-]+|com\.[\w.-]+|net\.[\w.-]+)[\"']", block)
        if actions and not any(_is_libvirt(action) for action in actions):
            continue
        users = re.findall(r"subject\.user\s*={2,3}\s*[\"']([^\"']+)[\"']", block)
        groups = re.findall(r"isInGroup\(\s*[\"']([^\"']+)[\"']\s*\)", block)
        clear = not re.search(r"!\s*subject|!={1,2}|\|\||\belse\b|spawn|indexOf\(\s*subject|\.match\(|\.test\(", block)
        found.append(Grant(f"{path}:{line}", tuple(users), tuple(groups), clear))
    return found


def _is_libvirt(action: str) -> bool:
    return action.startswith("org.libvirt") or "org.libvirt".startswith(action.rstrip("."))


def parse_pkla(path: str, text: str) -> list[Grant]:
    """A grant for each section that answers yes for managing libvirt."""
    found = []
    for section in re.split(r"(?m)^\s*\[", text)[1:]:
        keys = {
            key.strip().lower(): value.strip()
            for key, equals, value in (line.partition("=") for line in section.splitlines())
            if equals and not key.lstrip().startswith("#")
        }
        results = {keys.get(name, "").lower() for name in ("resultany", "resultinactive", "resultactive")}
        actions = [one.strip() for one in keys.get("action", "").split(";")]
        if "yes" in results and any(fnmatchcase(MANAGE, one) or one.startswith("org.libvirt.api") for one in actions):
            found.append(_pkla_grant(f"{path} [{section.partition(']')[0]}]", keys.get("identity", "")))
    return found


def _pkla_grant(where: str, identity: str) -> Grant:
    kinds = [one.strip().partition(":") for one in identity.split(";") if one.strip()]
    users = tuple(name for kind, _, name in kinds if kind == "unix-user")
    groups = tuple(name for kind, _, name in kinds if kind == "unix-group")
    if "*" in {*users, *groups}:
        return Grant(where, (), ())
    return Grant(where, users, groups, clear=len(users) + len(groups) == len(kinds))


def _parse_policy(path: str, text: str) -> list[Grant]:
    action = re.search(rf'<action id="{re.escape(MANAGE)}">(.*?)</action>', text, re.DOTALL)
    if action and re.search(r"<allow_(?:any|inactive|active)>\s*yes\s*<", action[1]):
        return [Grant(path, (), ())]
    return []
