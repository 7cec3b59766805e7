# SPDX-License-Identifier: Apache-2.0
"""A VM in the words of xl.cfg, which are those of Oracle VM's vm.cfg, too.

Source: xl.cfg(5), xl-disk-configuration(5), xl-network-configuration(5), xl-pci-configuration(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from uuid import UUID

from donjon.audit.facts.domain import ChannelFact, ConsoleFact, DeviceFact, DiskFact, Domain, NicFact

Settings = Mapping[str, object]

SWITCHES = (
    *("ioports", "iomem", "irqs", "dtdev", "e820_host", "driver_domain", "rdm", "nestedhvm", "cpuid"),
    *("xend_suspend_evtchn_compat", "xenstore_feature_mask", "device_model", "device_model_override"),
    *("pci_permissive", "pci_seize", "builder", "type", "OVM_domain_type"),
    *("hap", "altp2m", "p9", "pvcallsif", "vscsi", "device_model_version", "bootloader_restrict"),
)
RAW_ARGUMENTS = ("device_model_args", "device_model_args_pv", "device_model_args_hvm", "device_model_override")
_PREFIXES = ("file:", "phy:", "tap2:", "tap:", "aio:", "qcow2:", "qcow:", "vhd:", "raw:", "script:", "nbd:", "iscsi:")
_FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed", "empty", "")


def domain_of(settings: Settings, origin: str, *, running: bool, file: str = "") -> Domain:
    """The VM of a file or answer.

    Raises:
        ValueError: it has no name, or a value is not what its name says.
    """
    name = text_of(settings, "name")
    if not name:
        raise ValueError("it has no name")
    hvm = _is_hvm(settings)
    uuid = text_of(settings, "uuid")
    return Domain(
        uuid=str(UUID(uuid)) if uuid else "",
        name=text_of(settings, "OVM_simple_name") or name,
        origin=origin,
        running=running,
        template="/Templates/" in file,
        memory_kib=int(text_of(settings, "memory").partition(".")[0] or "0") * 1024,
        vcpus=int(text_of(settings, "vcpus") or "1"),
        os_type="hvm" if hvm else text_of(settings, "type") or "xen",
        boot=tuple(_BOOT[letter] for letter in text_of(settings, "boot") if letter in _BOOT),
        loader=text_of(settings, "firmware_override"),
        kernel=text_of(settings, "kernel"),
        initrd=text_of(settings, "ramdisk"),
        command_line=" ".join(filter(None, (text_of(settings, "cmdline"), text_of(settings, "extra")))),
        bootloader=text_of(settings, "bootloader"),
        emulator=text_of(settings, "device_model_override") or text_of(settings, "device_model"),
        disks=tuple(parse_disk(disk) for disk in texts_of(settings, "disk")),
        nics=tuple(_nic(nic) for nic in texts_of(settings, "vif")),
        consoles=tuple(_consoles(settings, hvm, "127.0.0.1" if origin == "xl" else "")),
        channels=tuple(_channels(settings)),
        devices=tuple(_devices(settings)),
        raw_arguments=tuple(f"{key}: {value}" for key in RAW_ARGUMENTS for value in texts_of(settings, key)),
        on_crash=text_of(settings, "on_crash"),
        options={key: ", ".join(texts_of(settings, key)) for key in SWITCHES if texts_of(settings, key)},
        file=file,
    )


_BOOT = {"c": "hd", "d": "cdrom", "n": "network", "a": "fd"}


def _is_hvm(settings: Settings) -> bool:
    kind = text_of(settings, "type") or text_of(settings, "builder") or text_of(settings, "OVM_domain_type")
    return kind in ("hvm", "xen_hvm", "xen_hvm_pv_drivers")


def text_of(settings: Settings, key: str) -> str:
    """A single value as text; "" if it is not set."""
    value = settings.get(key, "")
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    raise ValueError(f"{key} is no single value")


def texts_of(settings: Settings, key: str) -> tuple[str, ...]:
    """A value that is a list or a single one, as texts."""
    value = settings.get(key, ())
    if isinstance(value, (list, tuple)):
        return tuple(str(one).strip() for one in value)
    text = text_of(settings, key)
    return (text,) if text else ()


def parse_disk(spec: str) -> DiskFact:
    """A disk as xl and xm write it: words by place, KEY=VALUE, or an old prefix before the path."""
    before, target, path = spec.partition("target=")
    words = [word.strip() for word in before.split(",")]
    named = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("/"))
    placed = [word for word in words if word.split("=", 1)[0] not in named and word not in ("cdrom", "direct-io-safe")]
    if target:
        placed = [path.strip()]
    source, prefix = _without_prefix(placed[0] if placed else "")
    if prefix or (len(placed) == 3 and placed[1] not in _FORMATS):
        vdev, access, form = [*placed[1:], "", ""][0], [*placed[1:], "", ""][1], prefix
    else:
        form, vdev, access = [*placed[1:], "", "", ""][:3]
    vdev, _, device = (named.get("vdev") or vdev).partition(":")
    access = named.get("access") or access or "rw"
    cdrom = "cdrom" in (device, named.get("devtype", "")) or "cdrom" in words
    form = named.get("format") or form
    return DiskFact(
        target=vdev,
        source=source,
        format=form if form in ("qcow", "qcow2", "vhd", "qed") else "raw",
        device="cdrom" if cdrom else "disk",
        kind="block" if source.startswith("/dev/") else "file",
        read_only=cdrom or access in ("r", "ro"),
        shareable=access.endswith("!"),
    )


def _without_prefix(path: str) -> tuple[str, str]:
    last = ""
    while found := next((prefix for prefix in _PREFIXES if path.startswith(prefix)), ""):
        path, last = path.removeprefix(found), found.rstrip(":")
    return ("/" + path.lstrip("/") if path.startswith("//") else path), last


def _words(spec: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in spec.split(","))
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip()}


def _nic(spec: str) -> NicFact:
    words = _words(spec)
    tag = words.get("vlan", "")
    bridge, _, tags = words.get("bridge", "").partition(".")
    vlans, _, trunks = tags.partition(":")
    numbers = [int(one) for one in (tag, vlans, *trunks.split(":")) if one.isdecimal()]
    return NicFact(
        mac=words.get("mac", "").lower(),
        kind="bridge",
        source=bridge if tags.replace(":", "").isdecimal() else words.get("bridge", ""),
        model=words.get("model", ""),
        tap=words.get("vifname", ""),
        filter="vif-script ip" if words.get("ip") else "",
        vlan=tuple(numbers),
        trunk=len(numbers) > 1 or (not vlans and bool(trunks)),
        native_vlan=int(vlans) if vlans.isdecimal() and trunks else 0,
        port="openvswitch" if "vif-openvswitch" in words.get("script", "") else "",
        address=words.get("ip", ""),
    )


def _consoles(settings: Settings, hvm: bool, default: str) -> Iterator[ConsoleFact]:
    for frame_buffer in texts_of(settings, "vfb"):
        words = _words(frame_buffer)
        if words.get("type", "vnc") == "vnc" and words.get("vnc", "1") != "0":
            yield _vnc(words, default)
    if text_of(settings, "vnc") == "1" or (hvm and default and text_of(settings, "vnc") == ""):
        yield _vnc({key: text_of(settings, key) for key in ("vnclisten", "vncdisplay", "vncpasswd")}, default)
    if text_of(settings, "spice") == "1":
        yield ConsoleFact(
            "spice",
            (text_of(settings, "spicehost") or "0.0.0.0",),  # noqa: S104 -- what QEMU does without it
            port=int(text_of(settings, "spiceport") or "-1"),
            tls_port=int(text_of(settings, "spicetls_port") or "-1"),
            has_password=bool(text_of(settings, "spicepasswd")),
            insecure=text_of(settings, "spicedisable_ticketing") == "1",
        )


def _vnc(words: Mapping[str, str], default: str) -> ConsoleFact:
    """`vnclisten` may hold the display, too: ADDRESS:NUMBER."""
    listen = words.get("vnclisten", "") or default
    address, colon, number = listen.rpartition(":")
    if colon and number.isdecimal() and ":" not in address:
        listen = address
    display = words.get("vncdisplay", "")
    port = 5900 + int(display) if display.isdecimal() else -1
    return ConsoleFact("vnc", (listen,) if listen else (), port=port, has_password=bool(words.get("vncpasswd", "")))


def _channels(settings: Settings) -> Iterator[ChannelFact]:
    for device in ("serial", "parallel", "monitor"):
        for text in texts_of(settings, device):
            kind, _, where = text.partition(":")
            yield ChannelFact(device, kind, where.partition(",")[0], mode="connect" if "server" not in text else "bind")


def _devices(settings: Settings) -> Iterator[DeviceFact]:
    permissive = text_of(settings, "pci_permissive") == "1"
    seize = text_of(settings, "pci_seize") == "1"
    for spec in texts_of(settings, "pci"):
        address, *words = (word.strip() for word in spec.split(","))
        options = _words(",".join(words))
        options |= {"permissive": "1"} if permissive and "permissive" not in options else {}
        options |= {"seize": "1"} if seize and "seize" not in options else {}
        yield DeviceFact("pci", _pci(address.rpartition("=")[2]), "", options)
    for spec in (*texts_of(settings, "usbdevice"), *texts_of(settings, "usbdev")):
        host = _words(spec)
        if spec.startswith("host:") or "hostaddr" in host or "hostbus" in host:
            address = f"bus {host.get('hostbus', '?')} device {host.get('hostaddr', '?')}"
            yield DeviceFact("usb", spec.removeprefix("host:") if spec.startswith("host:") else address)
        else:
            yield DeviceFact("input", "", spec)
    yield from (DeviceFact("sound", "", sound) for sound in texts_of(settings, "soundhw"))
    yield from (DeviceFact("video", "", "cirrus") for _ in "1" if text_of(settings, "vga") == "cirrus")


def _pci(address: str) -> str:
    """With its domain, without the slot in the guest after "@"."""
    address = address.partition("@")[0]
    return address if address.count(":") == 2 else f"0000:{address}"
