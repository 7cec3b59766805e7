# SPDX-License-Identifier: Apache-2.0
"""Options of Linux and Xen taken from, or added to, what the boot loader is configured with; in force at the next boot.

Source: GNU GRUB manual, "Simple configuration"; Debian's grub-mkconfig reads /etc/default/grub.d/*.cfg after
/etc/default/grub; systemd's Boot Loader Specification for /boot/loader/entries.
"""

from __future__ import annotations

import re

from donjon.audit.catalogue import FixClass
from donjon.audit.controls.command_lines import entry_options
from donjon.audit.fact import need
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.change import Change, Edit, words
from donjon.harden.editors import Rewrite, lines

DEFAULTS = "/etc/default/grub"
OWN_DEFAULTS = "/etc/default/grub.d/donjon.cfg"
NEXT_BOOT = "in force at the next boot"
_VARIABLES = {
    "linux": r"GRUB_CMDLINE_LINUX(?:_DEFAULT|_XEN_REPLACE|_XEN_REPLACE_DEFAULT)?",
    "xen": r"GRUB_CMDLINE_XEN(?:_DEFAULT)?",
}
_WRITTEN_BY_HAND = re.compile(r"/(grub\.conf|menu\.lst)$|/loader/entries/[^/]*\.conf$")


def without_option(result: Result, host: Host, profile: Profile) -> Change | None:  # noqa: ARG001
    """The answer to a failure of the subject "linux OPTION" or "xen OPTION": the boot loader does not give it any more.

    None: it is not known where it comes from, as when somebody typed it at the console.

    Raises:
        Unseen: the boot loader's configuration could not be seen.
    """
    where, _, option = result.subject.partition(" ")
    if where not in _VARIABLES or not option:
        return None
    places = {
        line.path
        for line in need(host.boot.loader).entries
        if any(_is(option, word) for word in entry_options(where, line.text))
    }
    written = {path for path in places if _WRITTEN_BY_HAND.search(path)}
    generated = {path for path in places if path.endswith("/grub.cfg")}
    if not places or places - written - generated:
        return None
    edits = [Edit(path, _from_entries(where, option)) for path in sorted(written)]
    edits += [Edit(DEFAULTS, _from_defaults(where, option))] if generated else []
    system = "Xen" if where == "xen" else "Linux"
    activate = tuple(regenerated(path) for path in sorted(generated))
    return Change(
        f"{system} starts without {option}",
        tuple(edits),
        activate=activate,
        fix_class=FixClass.NEXT_BOOT,
        note=NEXT_BOOT,
    )


def with_option(host: Host, where: str, option: str, *, note: str = "") -> Change | None:
    """`option` ("ucode=scan") is added to what Linux or Xen is started with; None where donjon cannot add one.

    Raises:
        Unseen: the boot loader's configuration, or which system it is, could not be seen.
    """
    if not reads_folder(host) or not re.fullmatch(r"[\w=.,:-]+", option):
        return None
    variable = {"linux": "GRUB_CMDLINE_LINUX", "xen": "GRUB_CMDLINE_XEN"}[where]
    generated = [path for path in need(host.boot.loader).files if path.endswith("/grub.cfg")]
    if not generated:
        return None
    system = "Xen" if where == "xen" else "Linux"
    return Change(
        f"{system} starts with {option}",
        (Edit(OWN_DEFAULTS, lines(f'{variable}="${variable} {option}"'), mode=0o644),),
        activate=tuple(regenerated(path) for path in generated),
        fix_class=FixClass.NEXT_BOOT,
        note="; ".join(filter(None, (NEXT_BOOT, note))),
    )


def reads_folder(host: Host) -> bool:
    """Whether its grub-mkconfig reads /etc/default/grub.d: Debian's and Ubuntu's do. Raises Unseen."""
    release = need(host.platform.release)
    return not {"debian", "ubuntu"}.isdisjoint((release.id, *release.like))


def regenerated(path: str) -> str:
    """The generated configuration of GRUB is made anew; GRUB's own check keeps a faulty one from being installed."""
    there = words("grub2-mkconfig", "-o", path)
    return f"if command -v update-grub >/dev/null 2>&1; then update-grub; else {there}; fi"


def _is(option: str, word: str) -> bool:
    return word.partition("=")[0].replace("-", "_") == option.replace("-", "_")


def _from_defaults(where: str, option: str) -> Rewrite:
    setting = re.compile(rf"(?m)^(\s*(?:export\s+)?{_VARIABLES[where]}=)(['\"])(.*?)\2")
    return lambda text: setting.sub(lambda found: f"{found[1]}{found[2]}{_less(option, found[3])}{found[2]}", text)


def _from_entries(where: str, option: str) -> Rewrite:
    def rewrite(text: str) -> str:
        starts = (bool(entry_options(where, line.strip())) for line in text.splitlines())
        return "".join(
            _less(option, line) if start else line
            for line, start in zip(text.splitlines(keepends=True), starts, strict=True)
        )

    return rewrite


def _less(option: str, text: str) -> str:
    """Its words without the option, whatever its value; Linux takes - and _ for the same."""
    name = "[-_]".join(map(re.escape, re.split("[-_]", option)))
    return re.sub(rf"(?:^|[ \t]+){name}(?:=\S*)?(?=\s|$)", "", text)
