# SPDX-License-Identifier: Apache-2.0
"""Rules of the area BOOT: physical access, boot path, measured boot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from posixpath import basename, dirname

from donjon.audit.bundle import PathInfo
from donjon.audit.control import Context, control
from donjon.audit.controls.command_lines import is_xen
from donjon.audit.controls.parts import all_parts
from donjon.audit.fact import Absent, Fact, Known, Unknown, need
from donjon.audit.facts.boot import BootLoader, BootMenu, BootOption
from donjon.audit.facts.host import Host
from donjon.audit.verdict import Severity, Verdict, failed, manual, not_applicable, passed, unknown

BOOT_FILES = re.compile(
    r"(vmlinu|initr|xen|config-|System\.map|grub\.cfg|grub\.conf|menu\.lst|user\.cfg|grubenv|.*\.(efi|conf)$)", re.I
)
BOOT_FOLDERS = ("/boot", "/boot/grub", "/boot/grub2", "/boot/loader/entries")
EFI_FOLDERS = ("/boot/efi", "/efi")
REMOVABLE = re.compile(r"USB\(|MAC\(|IPv4\(|IPv6\(|CDROM|Uri\(", re.IGNORECASE)
SHELL_ACTION = re.compile(r"[^:#]*:[^:]*:(respawn|askfirst|once):[-/\w]*/?((ba|da|k|a)?sh|sushell)\b|.*--autologin")
EMPTY_PCR = re.compile(r"[0fF]*")


@control("BOOT-01")
def secure_boot(host: Host, _: Context) -> Iterable[Verdict]:
    """Only code that somebody trusted has signed is booted."""
    firmware = need(host.boot.firmware)
    if firmware.kind == "bios":
        yield not_applicable("the host boots by legacy BIOS; BOOT-03 counts instead")
        return
    secure, setup = firmware.secure_boot, firmware.setup_mode
    if secure is None:
        yield unknown("the firmware does not say whether Secure Boot is on")
    elif secure != 1:
        yield failed("Secure Boot is off", SecureBoot=secure, SetupMode=setup)
    elif setup != 0:
        yield failed("the firmware is in setup mode: anybody can enrol keys", SecureBoot=secure, SetupMode=setup)
    elif is_xen(host):
        yield _xen_chain(host)
    else:
        yield passed("Secure Boot is on", SecureBoot=secure, SetupMode=setup)


def _xen_chain(host: Host) -> Verdict:
    """Xen says which loader started it; "EFI" is the firmware itself. A file beside it would hold unsigned options."""
    loaders = [line.partition(": ")[2] for line in need(host.xen.messages) if line.startswith("Bootloader: ")]
    if not loaders:
        return unknown("the messages of Xen's start are gone, so its boot loader is not known")
    if loaders[0].strip() != "EFI":
        return failed("the chain of signatures ends at the boot loader, which starts Xen unchecked", loader=loaders[0])
    for folder in EFI_FOLDERS:
        files = host.paths.below(folder, 3)
        if isinstance(files, Known):
            options = [info.path for info in files.value if re.search(r"/xen[^/]*\.cfg$", info.path, re.IGNORECASE)]
            if options:
                return failed("kernel and options of Xen are named by a file that is not signed", file=options[0])
            return passed("the firmware starts a signed image that holds Xen, kernel and options")
    return unknown("nobody could look at the EFI system partition")


@control("BOOT-03")
def measured_boot(host: Host, _: Context) -> Iterable[Verdict]:
    """What was booted can be proven later."""
    if isinstance(host.boot.tpm, Absent):
        yield not_applicable("there is no TPM")
        return
    tpm = need(host.boot.tpm)
    measured = {number: pcr for number, pcr in tpm.pcrs.items() if not EMPTY_PCR.fullmatch(pcr)}
    pcrs = [f"{number}={pcr}" for number, pcr in tpm.pcrs.items()]
    if tpm.version == 0:
        yield unknown("the TPM does not say its version")
    elif tpm.version == 1:
        yield failed("the TPM is of version 1.2, which measures by SHA-1")
    elif tpm.log is None:
        yield unknown("nobody could look for the log of measurements")
    elif tpm.log == 0:
        yield failed("there is a TPM, but no log of what was measured", pcrs=pcrs)
    elif "0" not in measured:
        yield failed("the SHA-256 bank of the TPM is empty", pcrs=pcrs)
    else:
        yield passed("boot is measured", log_bytes=tpm.log, pcrs=pcrs)


@control("BOOT-05")
def boot_entries_protected(host: Host, _: Context) -> Iterable[Verdict]:
    """Who stands at the console does not get a root shell by editing a boot entry."""
    loader = need(host.boot.loader)
    words = {" ".join(line.text.split()[:2]): line.place for line in loader.protection}
    kinds = sorted(text.removeprefix("password ") for text in words if text.startswith("password "))
    if not loader.files:
        yield unknown("no configuration of a boot loader was found")
    elif "editor" in {line.text.split()[0] for line in loader.protection} or not _is_grub(loader):
        yield _systemd_boot(words)
    elif "pbkdf2" in kinds and _names_superusers(loader):
        yield passed("editing a boot entry needs a password", kind="pbkdf2", place=words["password pbkdf2"])
    elif "encrypted" in kinds:
        yield passed("editing a boot entry needs a password", kind="encrypted", place=words["password encrypted"])
    elif "md5" in kinds:
        place = words["password md5"]
        yield failed("the boot loader's password is kept as weak MD5", severity=Severity.LOW, place=place)
    elif "clear" in kinds:
        yield failed("the boot loader's password is kept in the clear", place=words["password clear"])
    else:
        yield failed("anybody at the console can edit a boot entry and become root", file=loader.files[0])


def _is_grub(loader: BootLoader) -> bool:
    return any("grub" in path or path.endswith("menu.lst") for path in loader.files)


def _names_superusers(loader: BootLoader) -> bool:
    """A password alone locks nothing; Red Hat's user.cfg goes with superusers in its grub.cfg."""
    return any(line.text == "superusers" for line in loader.protection)


def _systemd_boot(words: dict[str, str]) -> Verdict:
    if {"editor no", "editor 0", "editor false", "editor off"} & set(words):
        return not_applicable("systemd-boot lets nobody edit an entry")
    return failed("systemd-boot lets anybody at the console edit an entry and become root")


@control("BOOT-06")
def boot_files_private(host: Host, _: Context) -> Iterable[Verdict]:
    """Nobody but root changes what is booted, or reads the hash of the boot loader's password."""
    secret = _files_with_hash(host.boot.loader)
    folders = [host.paths.below("/boot", 1), *(host.paths.below(folder, 1) for folder in BOOT_FOLDERS[1:])]
    folders += [host.paths.below(folder, 3) for folder in EFI_FOLDERS]
    seen = {info.path: info for folder in folders if isinstance(folder, Known) for info in folder.value}
    files = [info for info in seen.values() if info.kind == "f" and _is_booted(info.path)]
    above = [host.paths.at(folder) for folder in sorted({dirname(info.path) for info in files})]
    places = [folder.value for folder in above if isinstance(folder, Known)]
    bad = [verdict for info in (*files, *places) if (verdict := _judge_boot_file(info, secret))]
    yield from bad
    unseen = [folder.reason for folder in folders if isinstance(folder, Unknown)]
    if unseen:
        yield unknown(unseen[0])
    elif not files:
        yield not_applicable("there are no boot files on this host")
    elif isinstance(host.boot.loader, Unknown):
        yield unknown(host.boot.loader.reason)
    elif not bad:
        yield passed("only root can change what is booted", files=len(files))


def _is_booted(path: str) -> bool:
    return bool(BOOT_FILES.match(basename(path)))


def _files_with_hash(loader: Fact[BootLoader]) -> set[str]:
    if not isinstance(loader, Known):
        return set()
    return {line.path for line in loader.value.protection if line.text.startswith("password ")}


def _judge_boot_file(info: PathInfo, secret: set[str]) -> Verdict | None:
    if info.uid != 0 or info.mode & 0o022:
        who = f"user {info.user or info.uid}" if info.uid != 0 else "others than root"
        return failed(f"{who} can change {info.path}", info.path, mode=info.shown)
    if info.path in secret and info.others & 0o4:
        return failed(f"everybody can read the hash of the password in {info.path}", info.path, mode=info.shown)
    return None


@control("BOOT-07")
def boot_order(host: Host, context: Context) -> Iterable[Verdict]:
    """The firmware does not boot what somebody plugs in or sends."""
    firmware = host.boot.firmware
    menu = host.boot.menu
    if isinstance(menu, Known):
        yield from _judge_order(menu.value)
    elif (
        isinstance(firmware, Known)
        and firmware.value.kind == "bios"
        and context.profile.attested("BOOT-07", context.today)
    ):
        yield passed("the order of boot devices is attested")
    elif isinstance(firmware, Known) and firmware.value.kind == "bios":
        yield manual("legacy BIOS: look at the order of boot devices in the firmware, and attest it")
    else:
        need(firmware)
        yield unknown("efibootmgr is not installed" if isinstance(menu, Absent) else need(menu).current)


def _judge_order(menu: BootMenu) -> Iterator[Verdict]:
    active = [option for option in menu.order if option.active]
    disks = [place for place, option in enumerate(active) if not REMOVABLE.search(option.device)]
    bad = [(place, option) for place, option in enumerate(active) if REMOVABLE.search(option.device)]
    for place, option in bad:
        before = not disks or place < disks[0]
        severity = Severity.HIGH if before else Severity.LOW
        where = "before the disk" if before else "if the disk does not boot"
        yield failed(
            f"{_kind(option)} is booted {where}: {option.label}",
            option.number,
            option.label,
            severity=severity,
            device=option.device,
        )
    if not active:
        yield unknown("the firmware lists no boot option that is active")
    elif not bad:
        yield passed("only disks are in the boot order", order=[option.label for option in active])


def _kind(option: BootOption) -> str:
    if "USB(" in option.device:
        return "USB"
    return "a CD" if "CDROM" in option.device.upper() else "the network"


@control("BOOT-10")
def consoles_need_login(host: Host, context: Context) -> Iterable[Verdict]:
    """Who reaches a console does not reach a shell."""
    found = list(all_parts(_units(host), _debug_shell(host), _inittab(host), _xen_console(host, context)))
    yield from found
    if not found:
        yield passed("every console asks for a password")


def _units(host: Host) -> Iterator[Verdict]:
    for line in need(host.boot.consoles, absent=()):
        if _opens(line.text):
            summary = f"a console logs in without a password: {line.path}"
            yield failed(summary, line.path, line=line.text, place=line.place)
        elif re.search(r"/(emergency|rescue)\.service", line.path) and _is_bare(line.text):
            yield failed("the rescue shell asks for no password", line.path, line=line.text, place=line.place)


def _opens(line: str) -> bool:
    return line.startswith("ExecStart=") and bool(re.search(r"getty.*(--autologin|\s-a\s)", line))


def _is_bare(line: str) -> bool:
    shell = line.startswith("ExecStart=") and bool(re.search(r"(/|\s)((ba|da|z|k)?sh|sushell)(\s|$)", line))
    return (shell and "sulogin" not in line) or "SYSTEMD_SULOGIN_FORCE=1" in line


def _debug_shell(host: Host) -> Iterator[Verdict]:
    unit = need(host.units.all, absent={}).get("debug-shell.service")
    if unit is not None and (unit.active or unit.enabled.startswith("enabled")):
        yield failed("debug-shell gives a root shell without password on tty9", "debug-shell.service")


def _inittab(host: Host) -> Iterator[Verdict]:
    for line in need(host.boot.inittab, absent="").splitlines():
        if SHELL_ACTION.match(line):
            yield failed("a console starts a shell without a password", "/etc/inittab", line=line.strip())
    for line in need(host.boot.sysv_init, absent="").splitlines():
        if re.match(r"\s*SINGLE=.*sushell", line):
            yield failed("single-user mode asks for no password", "/etc/sysconfig/init", line=line.strip())


def _xen_console(host: Host, context: Context) -> Iterator[Verdict]:
    """Keys typed on Xen's own console dump memory and reboot; conswitch=` keeps them out."""
    if not is_xen(host) or any(context.profile.attested(number, context.today) for number in ("BOOT-10", "BOOT-12")):
        return
    options = need(host.xen.options)
    consoles = [word for word in options if word.startswith("console=") and re.search(r"com\d|dbgp|ehci", word)]
    if consoles and "conswitch=`" not in options:
        yield failed("Xen takes debug keys from a serial console", "xen console", lower=1, option=consoles[-1])


@control("BOOT-12")
def physical_access(_: Host, context: Context) -> Iterable[Verdict]:
    """A locked rack is a person's word, and only for a year."""
    told = [one for one in context.profile.attestations if one.control == "BOOT-12"]
    valid = context.profile.attested("BOOT-12", context.today)
    if valid:
        yield passed("physical access is attested", owner=valid.owner, expires=valid.expires)
    elif told:
        yield failed(
            "the attestation of physical access is not valid any more", owner=told[-1].owner, expires=told[-1].expires
        )
    else:
        yield failed("nobody attests who gets at the host, its console and its management controller")
