# SPDX-License-Identifier: Apache-2.0
"""VMs as xend prints them, `xm list -l`: s-expressions, here put into the words of xl.cfg.

Source: xen-4.4.4, tools/python/xen/xend/sxp.py, XendConfig.py.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from donjon.audit.facts.domain import Domain
from donjon.audit.facts.domain_xen import Settings, domain_of

Expression: TypeAlias = "str | list[Expression]"

MAX_DEPTH = 60
_TOKEN = re.compile(r"""\s*(?:([()])|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s()'"]+))""", re.DOTALL)


def parse_xm_list(text: str) -> tuple[Domain, ...]:
    """The VMs without domain 0.

    Raises:
        ValueError: it is not what xm prints.
    """
    domains = [one for one in parse_expressions(text) if isinstance(one, list) and one[:1] == ["domain"]]
    settings = [(_settings(one), _value(one, "domid")) for one in domains]
    return tuple(domain_of(found, "xm", running=bool(number)) for found, number in settings if number != "0")


def parse_expressions(text: str) -> list[Expression]:
    """The expressions of a text: words, and lists of expressions.

    Raises:
        ValueError: a parenthesis is missing.
    """
    stack: list[list[Expression]] = [[]]
    place = 0
    while text[place:].strip():
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError("not an s-expression")
        place = token.end()
        match token.group(1):
            case "(":
                if len(stack) > MAX_DEPTH:
                    raise ValueError("an s-expression too deep")
                inner: list[Expression] = []
                stack[-1].append(inner)
                stack.append(inner)
            case ")":
                if len(stack) == 1:
                    raise ValueError("a parenthesis too many")
                stack.pop()
            case _:
                stack[-1].append(next(group for group in token.groups()[1:] if group is not None))
    if len(stack) > 1:
        raise ValueError("it is cut off")
    return stack[0]


def _settings(domain: list[Expression]) -> Settings:
    image = next(iter(_lists(domain, "image")), [])
    inner = next((part for part in image if isinstance(part, list)), list[Expression]())
    hvm = inner[:1] == ["hvm"]
    devices = [device[1] for device in _lists(domain, "device") if len(device) > 1 and isinstance(device[1], list)]
    found: dict[str, object] = {key: _value(domain, key) for key in ("name", "uuid", "memory", "vcpus", "on_crash")}
    found |= {"bootloader": _value(domain, "bootloader"), "type": "hvm" if hvm else "pv"}
    for key in ("kernel", "ramdisk", "boot", "serial", "usbdevice", "soundhw", "vnc", "vnclisten", "device_model"):
        found[key] = _value(inner, key)
    found["extra"] = _value(inner, "args")
    found["disk"] = [
        f"{_value(disk, 'uname')},{_value(disk, 'dev').removesuffix(':disk')},{_value(disk, 'mode')}"
        for disk in devices
        if disk[:1] in (["vbd"], ["tap"], ["tap2"])
    ]
    found["vif"] = [
        ",".join(f"{key}={_value(nic, key)}" for key in ("mac", "bridge", "model", "ip") if _value(nic, key))
        for nic in devices
        if nic[:1] == ["vif"]
    ]
    found["vfb"] = [
        ",".join(f"{key}={_value(one, key)}" for key in ("vnc", "vnclisten", "vncpasswd") if _value(one, key))
        for one in devices
        if one[:1] == ["vfb"]
    ]
    if found["vfb"]:
        found["vnc"] = "0"  # xend shows one console twice
    found["pci"] = [
        ":".join(_value(one, key).removeprefix("0x") for key in ("domain", "bus", "slot")) + f".{_value(one, 'func')}"
        for device in devices
        if device[:1] == ["pci"]
        for one in _lists(device, "dev")
    ]
    return found


def _lists(expression: list[Expression], head: str) -> list[list[Expression]]:
    return [part for part in expression if isinstance(part, list) and part[:1] == [head]]


def _value(expression: list[Expression], key: str) -> str:
    """The word after a key: (key word)."""
    found = next(iter(_lists(expression, key)), [])
    return next((part for part in found[1:] if isinstance(part, str)), "")
