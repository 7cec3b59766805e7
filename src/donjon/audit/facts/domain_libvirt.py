# SPDX-License-Identifier: Apache-2.0
"""VMs and networks as libvirt's XML defines them.

Source: libvirt.org/formatdomain.html, formatnetwork.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from donjon.audit.facts.domain import (
    ChannelFact,
    ConsoleFact,
    CpuFact,
    DeviceFact,
    DiskFact,
    Domain,
    NicFact,
    ShareFact,
)
from donjon.errors import ConfigError
from donjon.hypervisors.definition import attribute, child_text, disk_elements, disk_target, parse_domain, read_labels

_BYTES = {"b": 1, "bytes": 1, "": 1 << 10}
_BYTES |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGTPE", start=1)}
_BYTES |= {f"{letter}{end}": 1 << 10 * power for power, letter in enumerate("KMGTPE", start=1) for end in ("", "iB")}
_BYTES["k"] = 1 << 10
"""Units of <memory>."""

_CHARACTER_DEVICES = ("serial", "parallel", "console", "channel", "rng", "smartcard", "redirdev")
_PLAIN_DEVICES = ("sound", "controller", "watchdog", "tpm", "video", "input", "hub", "panic", "memballoon", "vsock")


def parse_libvirt_domain(text: str) -> Domain:
    """The VM of a <domain>; a running one has an id.

    Raises:
        ValueError: it is no definition.
    """
    try:
        domain = parse_domain(text)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    memory = domain.find("memory")
    seclabels = [label for label in domain.findall("seclabel") if label.get("model") != "dac"]
    security = seclabels[0] if seclabels else None
    return Domain(
        uuid=child_text(domain, "uuid").lower(),
        name=child_text(domain, "name"),
        origin="libvirt",
        running=domain.get("id") is not None,
        memory_kib=int(child_text(domain, "memory") or 0) * _BYTES[attribute(memory, "unit")] >> 10,
        vcpus=int(child_text(domain, "vcpu") or 1),
        os_type=child_text(domain, "os/type"),
        machine=attribute(domain.find("os/type"), "machine"),
        boot=_boot_order(domain),
        loader=child_text(domain, "os/loader"),
        kernel=child_text(domain, "os/kernel"),
        initrd=child_text(domain, "os/initrd"),
        device_tree=child_text(domain, "os/dtb"),
        command_line=child_text(domain, "os/cmdline"),
        bootloader=child_text(domain, "bootloader"),
        emulator=child_text(domain, "devices/emulator"),
        disks=tuple(_disk(disk) for disk in disk_elements(domain)),
        nics=tuple(_nic(nic) for nic in domain.findall("devices/interface")),
        consoles=tuple(_console(console) for console in domain.findall("devices/graphics")),
        channels=tuple(_channels(domain)),
        devices=tuple(_devices(domain)),
        shares=tuple(_share(share) for share in domain.findall("devices/filesystem")),
        cpu=_cpu(domain),
        raw_arguments=tuple(_raw_arguments(domain)),
        label_type=attribute(security, "type"),
        label="" if security is None else child_text(security, "label"),
        relabel=attribute(security, "relabel") != "no",
        on_crash=child_text(domain, "on_crash"),
        dump_core=attribute(memory, "dumpCore"),
        labels=read_labels(domain),
    )


def _boot_order(domain: Element) -> tuple[str, ...]:
    """Of the devices that have an order of their own, else of <os>: hd, cdrom, fd, network, hostdev."""
    ordered = []
    for device in domain.find("devices") or ():
        order = attribute(device.find("boot"), "order")
        if order:
            ordered.append((int(order), _boot_name(device)))
    if ordered:
        return tuple(name for _, name in sorted(ordered))
    return tuple(boot.get("dev", "") for boot in domain.findall("os/boot"))


def _boot_name(device: Element) -> str:
    if device.tag == "disk":
        return {"cdrom": "cdrom", "floppy": "fd"}.get(device.get("device", "disk"), "hd")
    return "network" if device.tag == "interface" else device.tag


def _disk(disk: Element) -> DiskFact:
    device = disk.get("device", "disk")
    target = disk.find("target")
    return DiskFact(
        target=disk_target(disk),
        source=_disk_source(disk),
        format=attribute(disk.find("driver"), "type"),
        device=device,
        kind=disk.get("type", "file"),
        read_only=device == "cdrom" or disk.find("readonly") is not None,
        shareable=disk.find("shareable") is not None,
        bus=attribute(target, "bus"),
        backing=tuple(source for store in disk.iter("backingStore") if (source := _disk_source(store))),
    )


def _disk_source(disk: Element) -> str:
    source = disk.find("source")
    if source is None:
        return ""
    match disk.get("type", "file"):
        case "network":
            host = attribute(source.find("host"), "name")
            return f"{source.get('protocol', '')}://{host}/{source.get('name', '')}"
        case "volume":
            return f"{source.get('pool', '')}/{source.get('volume', '')}"
        case "nvme":
            return f"nvme:{_pci_address(source.find('address'))}"
        case _:
            return source.get("file") or source.get("dev") or source.get("dir") or source.get("path") or ""


def _nic(nic: Element) -> NicFact:
    source = nic.find("source")
    kind = nic.get("type", "")
    tags = nic.findall("vlan/tag")
    native = [tag for tag in tags if tag.get("nativeMode")]
    name = next((attribute(source, key) for key in ("bridge", "network", "dev", "path") if attribute(source, key)), "")
    if kind == "hostdev" and source is not None:
        name = _pci_address(source.find("address"))
    return NicFact(
        mac=attribute(nic.find("mac"), "address").lower(),
        kind=kind,
        source=attribute(source, kind) or name,
        model=attribute(nic.find("model"), "type"),
        tap=attribute(nic.find("target"), "dev"),
        filter=attribute(nic.find("filterref"), "filter"),
        vlan=tuple(int(tag.get("id", "")) for tag in tags),
        trunk=attribute(nic.find("vlan"), "trunk") == "yes" or len(tags) > 1,
        native_vlan=int(native[0].get("id", "")) if native else 0,
        isolated=attribute(nic.find("port"), "isolated") == "yes",
        port=attribute(nic.find("virtualport"), "type"),
        trusts_guest=nic.get("trustGuestRxFilters") == "yes",
    )


def _console(console: Element) -> ConsoleFact:
    """A console; without a <listen> and an address it is left to the host's default."""
    kind = console.get("type", "")
    listens = [_listen(listen) for listen in console.findall("listen")]
    addresses = tuple(listens or ([console.get("listen", "")] if console.get("listen") else []))
    if console.get("socket"):
        addresses = ("socket",)
    if kind in ("sdl", "egl-headless", "dbus", "desktop"):
        addresses = ("none",)
    return ConsoleFact(
        kind=kind,
        listen=tuple(address for address in addresses if address),
        port=int(console.get("port", "-1")),
        tls_port=int(console.get("tlsPort", "-1")),
        password_unseen=True,
    )


def _listen(listen: Element) -> str:
    if listen.get("type") in ("none", "socket"):
        return listen.get("type", "")
    return listen.get("address") or (f"network {listen.get('network')}" if listen.get("network") else "")


def _channels(domain: Element) -> Iterator[ChannelFact]:
    for device in domain.find("devices") or ():
        if device.tag not in _CHARACTER_DEVICES:
            continue
        holder = device.find("backend") if device.tag == "rng" else device
        kind = attribute(holder, "type" if device.tag != "rng" or attribute(holder, "type") else "model")
        source = None if holder is None else _served(holder)
        protocol = "" if holder is None else attribute(holder.find("protocol"), "type")
        yield ChannelFact(
            device=device.tag,
            kind=protocol if kind == "tcp" and protocol == "telnet" else kind,
            where=_endpoint(source),
            mode=attribute(source, "mode"),
            tls=attribute(source, "tls") == "yes" or protocol == "tls",
            target=attribute(device.find("target"), "name") or attribute(device.find("target"), "port"),
        )


def _served(holder: Element) -> Element | None:
    """The <source> of a character device; of UDP's two, the one that is listened on."""
    sources = holder.findall("source")
    bound = [source for source in sources if source.get("mode") == "bind"]
    return next(iter(bound or sources), None)


def _endpoint(source: Element | None) -> str:
    if source is None:
        return ""
    if source.get("service"):
        return f"{source.get('host', '')}:{source.get('service')}"
    return source.get("path", "")


def _devices(domain: Element) -> Iterator[DeviceFact]:
    for hostdev in domain.findall("devices/hostdev"):
        source = hostdev.find("source")
        kind = hostdev.get("type", "")
        yield DeviceFact(kind, _host_address(kind, source), hostdev.get("model", ""), _options(hostdev, source))
    for nic in domain.findall("devices/interface[@type='hostdev']"):
        source = nic.find("source")
        address = "" if source is None else _pci_address(source.find("address"))
        yield DeviceFact("pci", address, "", {"interface": attribute(nic.find("mac"), "address")})
    for device in domain.find("devices") or ():
        if device.tag == "redirdev":
            yield DeviceFact("redirdev", "", device.get("type", ""), {"bus": device.get("bus", "")})
        if device.tag in _PLAIN_DEVICES:
            kind = f"{device.get('type')} controller" if device.tag == "controller" else device.tag
            model = device.get("model") or attribute(device.find("model"), "type") or device.get("type", "")
            yield DeviceFact(kind, "", model or "")


def _options(hostdev: Element, source: Element | None) -> dict[str, str]:
    names = ("managed", "sgio", "rawio", "mode")
    options = {name: hostdev.get(name, "") for name in names if hostdev.get(name)}
    if source is not None and source.get("writeFiltering"):
        options["writeFiltering"] = source.get("writeFiltering", "")
    return options


def _host_address(kind: str, source: Element | None) -> str:
    if source is None:
        return ""
    address = source.find("address")
    if kind == "pci":
        return _pci_address(address)
    if kind == "mdev":
        return attribute(address, "uuid")
    if kind == "usb" and source.find("vendor") is not None:
        vendor, product = (attribute(source.find(tag), "id").removeprefix("0x") for tag in ("vendor", "product"))
        return f"{vendor}:{product}"
    if kind == "usb":
        return f"bus {attribute(address, 'bus')} device {attribute(address, 'device')}"
    adapter = attribute(source.find("adapter"), "name")
    return source.get("wwpn") or adapter or attribute(source.find("block"), "dev")


def _pci_address(address: Element | None) -> str:
    parts = [int(attribute(address, name) or "0", 0) for name in ("domain", "bus", "slot", "function")]
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*parts)


def _share(share: Element) -> ShareFact:
    source = share.find("source")
    return ShareFact(
        source=next((source.get(key, "") for key in ("dir", "file", "dev", "name", "socket") if source.get(key)), "")
        if source is not None
        else "",
        target=attribute(share.find("target"), "dir"),
        driver=attribute(share.find("driver"), "type") or "path",
        mode=share.get("accessmode", "passthrough"),
        read_only=share.find("readonly") is not None,
    )


def _cpu(domain: Element) -> CpuFact:
    cpu = domain.find("cpu")
    if cpu is None:
        return CpuFact()
    model = child_text(cpu, "model")
    features = {feature.get("name", ""): feature.get("policy", "require") for feature in cpu.findall("feature")}
    return CpuFact(cpu.get("mode", "custom" if model else ""), model, features)


def _raw_arguments(domain: Element) -> Iterator[str]:
    """Of QEMU's own namespaces, whatever their prefix is called."""
    for element in domain:
        name = element.tag.rpartition(":")[2]
        if name == "commandline":
            yield from (part.get("value", "") for part in element if part.tag.endswith(":arg"))
            yield from (f"{part.get('name')}=..." for part in element if part.tag.endswith(":env"))
        if name in ("override", "capabilities", "deprecation"):
            yield from (f"{name}: {_flat(part)}" for part in element)


def _flat(element: Element) -> str:
    words = [f"{part.tag.rpartition(':')[2]} {' '.join(part.attrib.values())}" for part in element.iter()]
    return "; ".join(words)
