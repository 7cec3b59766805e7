# SPDX-License-Identifier: Apache-2.0
"""Fixes of the area BOOT: see the catalogue.

Source: GNU GRUB manual, "Security"; systemd's loader.conf(5); inittab(5).
"""

from __future__ import annotations

import re
from posixpath import dirname

from donjon.audit.controls.boot import EFI_FOLDERS
from donjon.audit.fact import Known, need
from donjon.audit.facts.boot import BootLoader
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.boot_options import reads_folder, regenerated
from donjon.harden.change import Change, Command, Edit, Permissions, fix, words
from donjon.harden.editors import Rewrite, assignments, directives, whole

GRUB_HASH = re.compile(r"grub\.pbkdf2\.sha512\.\d+\.[0-9A-Fa-f]+\.[0-9A-Fa-f]+")
OWN_GRUB_SCRIPT = "/etc/grub.d/01_donjon"
_GRUB_SCRIPTS = ("/etc/grub.d/10_linux", "/etc/grub.d/20_linux_xen")
_SUPERUSER = """\
#!/bin/sh
cat <<'END'
set superusers="root"
export superusers
password_pbkdf2 root {hash}
END
"""
# A submenu asks for the password, too: a default within one would keep the host from booting by itself.
_DEFAULT_IS_ON_TOP = """\
for file in "$ROOT/etc/default/grub" "$ROOT"/etc/default/grub.d/*.cfg; do
    if [ -e "$file" ] && grep -Eq '^[[:space:]]*GRUB_DEFAULT=.*(>|saved)' "$file"; then
        echo "the default entry is in a submenu, or saved: GRUB would ask for the password at each boot"
        exit 1
    fi
done"""
_BOOTS_WITHOUT = """\
grep -q '^password_pbkdf2 ' "$ROOT"{config}
grep '^menuentry .*--class gnu-linux' "$ROOT"{config} >/dev/null
! grep '^menuentry .*--class gnu-linux' "$ROOT"{config} | grep -qv -e --unrestricted"""
_RESCUE = 'ExecStart=-/bin/sh -c "/sbin/sulogin; systemctl --job-mode=fail --no-block default"'
_DAEMON_RELOAD = 'if [ -d "$ROOT/run/systemd/system" ]; then systemctl daemon-reload; fi'
_INIT_RELOAD = "if command -v telinit >/dev/null 2>&1; then telinit q; fi"


@fix("BOOT-05")
def boot_entries_protected(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Editing a boot entry needs the password whose hash the profile tells; booting one does not.

    None: the profile tells no hash, or it is GRUB legacy, which knows no such hash.
    """
    loader = need(host.boot.loader)
    paths = [path for path in loader.files if path.endswith("/loader.conf")]
    if paths and not any(path.endswith(("/grub.cfg", "/grub.conf", "/menu.lst")) for path in loader.files):
        title = "systemd-boot lets nobody edit an entry"
        return Change(title, tuple(Edit(path, directives({"editor": "no"})) for path in paths))
    if not GRUB_HASH.fullmatch(profile.grub_password):
        return None
    prepared = [line.path for line in loader.protection if line.text == "superusers"]
    config = next((path for path in loader.files if path.endswith("/grub.cfg")), "")
    if prepared and not any(line.text.startswith("password") for line in loader.protection):
        return _user_file(prepared[0], profile.grub_password)
    return _superuser(config, profile.grub_password) if config and reads_folder(host) else None


def _user_file(config: str, password: str) -> Change:
    """Red Hat's grub.cfg reads the hash from a file beside it, and its entries boot without."""
    mode = 0o700 if config.startswith(EFI_FOLDERS) else 0o600
    rewrite = assignments({"GRUB2_PASSWORD": password}, separator="=")
    return Change("editing a boot entry needs a password", (Edit(f"{dirname(config)}/user.cfg", rewrite, mode=mode),))


def _superuser(config: str, password: str) -> Change:
    """Debian's grub-mkconfig makes entries that ask for the password unless their class is told not to."""
    script = Edit(OWN_GRUB_SCRIPT, whole(_SUPERUSER.format(hash=password)), mode=0o700)
    return Change(
        "editing a boot entry needs a password, booting one does not",
        (*(Edit(path, _unrestricted) for path in _GRUB_SCRIPTS), script),
        activate=(regenerated(config),),
        tests=(_BOOTS_WITHOUT.format(config=words(config)),),
        preview=_DEFAULT_IS_ON_TOP,
        note="the name is root; submenus and other systems ask for it, too",
    )


def _unrestricted(text: str) -> str:
    if "--unrestricted" in text:
        return text
    changed, times = re.subn(r'(?m)^(CLASS="[^"\n]*)"', r'\1 --unrestricted"', text, count=1)
    if not times:
        raise ValueError("it does not set CLASS: GRUB would ask for the password at each boot")
    return changed


@fix("BOOT-06")
def boot_files_private(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Only root changes boot files; only root reads one with a password's hash.

    None for the EFI system partition: FAT has no permissions but those of its mount options.
    """
    path = result.subject
    if not path.startswith("/") or path.startswith(tuple(f"{folder}/" for folder in EFI_FOLDERS)):
        return None
    seen = host.paths.at(path)
    foreign = isinstance(seen, Known) and seen.value.uid != 0
    at_most = 0o7700 if path in _with_hash(host) else 0o7755
    wanted = Permissions(path, at_most=at_most, owner="root:root" if foreign else "")
    return Change(f"only root can change {path}", (wanted,))


def _with_hash(host: Host) -> set[str]:
    loader = host.boot.loader.value if isinstance(host.boot.loader, Known) else BootLoader((), (), ())
    return {line.path for line in loader.protection if line.text.startswith("password ")}


@fix("BOOT-10")
def consoles_need_login(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """Who reaches a console is asked for a password.

    None for units that packages own, and for Xen's own console: its option holds a character that GRUB's scripts run.
    """
    path = result.subject
    if path == "debug-shell.service":
        return Change("debug-shell never starts", (_masked(path),))
    if path == "/etc/inittab":
        return _console(path, _inittab, _INIT_RELOAD)
    if path == "/etc/sysconfig/init":
        return _console(path, assignments({"SINGLE": "/sbin/sulogin"}, separator="="))
    if not path.startswith("/etc/systemd/system/"):
        return None
    is_rescue = re.search(r"/(emergency|rescue)\.service", path)
    return _console(path, _rescue if is_rescue else _without_autologin, _DAEMON_RELOAD)


def _console(path: str, rewrite: Rewrite, activate: str = "") -> Change:
    """Who is logged in stays so."""
    note = "holds from the next login on; whoever is to log in there needs a password"
    return Change(
        f"the console of {path} asks for a password",
        (Edit(path, rewrite),),
        activate=(activate,) if activate else (),
        note=note,
    )


def _without_autologin(text: str) -> str:
    return re.sub(
        r"(?m)^ExecStart=.*getty.*$", lambda line: re.sub(r"\s+(?:--autologin[\s=]+\S+|-a\s+\S+)", "", line[0]), text
    )


def _rescue(text: str) -> str:
    text = re.sub(r"(?m)^ExecStart=(?!.*sulogin).*(?:/|\s)(?:ba|da|z|k)?sh(?=\s|$).*$", _RESCUE, text)
    text = re.sub(r"(?m)^ExecStart=.*(?:/|\s)sushell(?=\s|$).*$", _RESCUE, text)
    return re.sub(r"(?m)^Environment=.*SYSTEMD_SULOGIN_FORCE=1.*\n?", "", text)


def _inittab(text: str) -> str:
    text = re.sub(r"(?m)^(\w[^#\n]*?)\s+--autologin[\s=]+\S+", r"\1", text)
    return re.sub(
        r"(?m)^(?=[^:#\n]*:[^:\n]*:(?:respawn|askfirst|once):[-/\w]*/?(?:(?:ba|da|k|a)?sh|sushell)\b)", "#", text
    )


def _masked(unit: str) -> Command:
    state = f"""\
systemctl is-enabled -- {unit} 2>/dev/null || :
systemctl is-active -- {unit} || :"""
    undo = f"""\
systemctl unmask -- {unit}
if grep -q '^enabled' "$BEFORE"; then systemctl enable -- {unit}; fi
if grep -qx active "$BEFORE"; then systemctl start -- {unit}; fi"""
    do = f"systemctl disable --now -- {unit}\nsystemctl mask -- {unit}"
    return Command(f"mask {unit}", do, undo, state)
