# SPDX-License-Identifier: Apache-2.0
"""Running VMs as `xl list -l` prints them: JSON of libxl's structures, here put into the words of xl.cfg.

Source: libxl_types.idl of Xen 4.17.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from donjon.audit.facts.domain import Domain
from donjon.audit.facts.domain_xen import Settings, domain_of


def parse_xl_list(text: str) -> tuple[Domain, ...]:
    """The VMs without domain 0.

    Raises:
        ValueError: it is not what xl prints.
    """
    try:
        listed = msgspec.json.decode(text, type=list[dict[str, Any]])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not the JSON of xl: {error}") from error
    try:
        guests = [one for one in listed if one.get("domid") != 0]
        return tuple(domain_of(_settings(one["config"]), "xl", running=True) for one in guests)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not the JSON of xl: {error}") from error


def _settings(config: dict[str, Any]) -> Settings:
    create, build = config["c_info"], config["b_info"]
    kind = create.get("type", "pv")
    special = build.get(f"type.{kind}") or build.get("u") or {}
    found: dict[str, object] = {
        "name": create["name"],
        "uuid": create.get("uuid", ""),
        "type": kind,
        "driver_domain": _flag(create.get("driver_domain")),
        "memory": int(build.get("max_memkb") or 0) // 1024,
        "vcpus": build.get("max_vcpus", 1),
        "on_crash": config.get("on_crash", ""),
        "disk": [_disk(disk) for disk in config.get("disks", [])],
        "vif": [_nic(nic) for nic in config.get("nics", [])],
        "pci": [_pci(device) for device in config.get("pcidevs", [])],
        "vfb": [_frame_buffer(one) for one in config.get("vfbs", [])],
        "dtdev": [one.get("path", "") for one in config.get("dtdevs", [])],
        "usbdevice": [one for one in (special.get("usbdevice"), *(special.get("usbdevice_list") or ())) if one],
        "serial": [one for one in (special.get("serial"), *(special.get("serial_list") or ())) if one],
        "device_model_override": build.get("device_model", ""),
        "ioports": [_range(one) for one in build.get("ioports", [])],
        "iomem": [_range(one) for one in build.get("iomem", [])],
        "irqs": [str(one) for one in build.get("irqs", [])],
        "e820_host": _flag(special.get("e820_host")),
        "nestedhvm": _flag(build.get("nested_hvm", special.get("nested_hvm"))),
        "hap": _flag(create.get("hap")),
        "altp2m": build.get("altp2m", special.get("altp2m")) or "",
        "bootloader_restrict": _flag(build.get("bootloader_restrict")),
    }
    for key in ("kernel", "ramdisk", "cmdline", "bootloader"):
        found[key] = build.get(key) or special.get(key) or ""
    for ours, theirs in (("", "extra"), ("_pv", "extra_pv"), ("_hvm", "extra_hvm")):
        found[f"device_model_args{ours}"] = build.get(theirs) or []
    return {**found, **dict(_screen(special)), "boot": special.get("boot", ""), "soundhw": special.get("soundhw", "")}


def _screen(special: dict[str, Any]) -> Iterator[tuple[str, object]]:
    vnc, spice = special.get("vnc") or {}, special.get("spice") or {}
    for key, value in (("vnc", vnc.get("enable")), ("spice", spice.get("enable"))):
        if value is not None:
            yield key, _flag(value)
    yield "vnclisten", vnc.get("listen", "")
    yield "vncdisplay", vnc.get("display", "") or ""
    yield "vncpasswd", vnc.get("passwd", "") or ""
    yield "spicehost", spice.get("host", "") or ""
    yield "spiceport", spice.get("port", "") or ""
    yield "spicetls_port", spice.get("tls_port", "") or ""
    yield "spicepasswd", spice.get("passwd", "") or ""
    yield "spicedisable_ticketing", _flag(spice.get("disable_ticketing"))


def _flag(value: object) -> str:
    """A boolean of libxl: true, "True", or 1; "<default>" is not set."""
    if value in (None, "<default>", ""):
        return ""
    return "1" if value in (True, "True", 1, "1") else "0"


def _disk(disk: dict[str, Any]) -> str:
    access = "rw" if _flag(disk.get("readwrite")) == "1" else "ro"
    kind = "cdrom" if _flag(disk.get("is_cdrom")) == "1" else ""
    words = f"format={disk.get('format', 'raw')},vdev={disk.get('vdev', '')},access={access},devtype={kind}"
    return f"{words},target={disk.get('pdev_path') or ''}"


def _nic(nic: dict[str, Any]) -> str:
    words = {"mac": "mac", "bridge": "bridge", "model": "model", "ifname": "vifname", "ip": "ip", "script": "script"}
    return ",".join(f"{ours}={nic[theirs]}" for theirs, ours in words.items() if nic.get(theirs))


def _pci(device: dict[str, Any]) -> str:
    address = "{:04x}:{:02x}:{:02x}.{:x}".format(*(int(device.get(key, 0)) for key in ("domain", "bus", "dev", "func")))
    options = [f",{key}=1" for key in ("permissive", "seize") if _flag(device.get(key)) == "1"]
    return address + "".join(options) + (f",rdm_policy={device['rdm_policy']}" if device.get("rdm_policy") else "")


def _frame_buffer(one: dict[str, Any]) -> str:
    vnc = one.get("vnc") or {}
    words = {"listen": "vnclisten", "display": "vncdisplay", "passwd": "vncpasswd"}
    pairs = [f"{ours}={vnc[theirs]}" for theirs, ours in words.items() if vnc.get(theirs)]
    return ",".join([f"vnc={_flag(vnc.get('enable')) or '1'}", *pairs])


def _range(one: dict[str, Any]) -> str:
    return f"{one.get('first', one.get('start', '?'))}+{one.get('number', '?')}"
