# SPDX-License-Identifier: Apache-2.0
"""The configuration file: repositories and policies by name, so that a backup is one short command.

Looked for in this order: `--config`, $DONJON_CONFIG, $XDG_CONFIG_HOME/donjon/config.toml, /etc/donjon/config.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from donjon.errors import ConfigError

SYSTEM_CONFIG = Path("/etc/donjon/config.toml")

LIGHTEST, HEAVIEST = 1, 19
Compression = Annotated[int, msgspec.Meta(ge=LIGHTEST, le=HEAVIEST)]
PackSize = Annotated[int, msgspec.Meta(ge=16, le=128)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Days = Annotated[int, msgspec.Meta(ge=0)]
Mebibytes = Annotated[int, msgspec.Meta(ge=0)]
Several = Annotated[int, msgspec.Meta(ge=1)]

EXAMPLE = """\
# /etc/donjon/config.toml, or ~/.config/donjon/config.toml

[repository.main]                         # `donjon -r main ...`; the only one need not be named
location = "/backup/vms"
password_file = "/etc/donjon/main.password"   # its first line; readable by root only
# password_command = "systemd-creds decrypt /etc/donjon/main.cred -"
compression = 1                           # zstd, 1 (fast) to 19 (small)
pack_size = 16                            # MiB, 16 to 128

[policy.nightly]                          # `donjon backup --policy nightly`
repository = "main"
labels = ["tier=db", "backup"]            # VMs with one of these labels,
vms = ["web01", "mail"]                   # and these; or all = true
when_running = "live"                     # the default; or "shutdown", "suspend", "refuse" to leave it alone
quiesce = "filesystem"                    # freeze file systems by the guest's agent; or "crash", "application"
least = "filesystem"                      # below this consistency
below_least = "fail"                      # there is no backup; "warn": there is, with a warning
freeze_deadline = 10                      # seconds; after that the guest is thawed whatever happens
scratch = "/var/tmp"                      # local disk for what a guest overwrites while it is read
least_free_scratch = 512                  # MiB; with less left there, the backup is given up and the guest goes on
witness = ["/etc/hostname"]               # files in the guest whose hashes are kept, for `donjon drill`
compare_within = 30                       # days in which each unchanged block is read and compared once; 0: never
parallel = 2                              # VMs at a time
together = false                          # true: all of them at one moment, as a consistency group
shutdown_timeout = 300                    # seconds; after that the guest is left running
skip_disks = ["vdz"]
include_isos = false
change_tracking = true                    # keep a bitmap in qcow2 images, so that the next backup reads changes only
connect = "qemu:///system"

[drill.web01]                             # what `donjon drill web01` checks; the agent and the witness anyway
services = ["nginx"]                      # active, says systemd
scripts = ["curl -fs http://localhost/"]  # commands of the guest, or files here with some
console = ["login:"]                      # what it must say on its serial console
files = ["/etc/hostname"]                 # only these of the witness
boot_timeout = 300                        # seconds
memory = 1024                             # MiB, if the VM has more
directory = "/var/tmp"                    # takes what the guest writes
connect = "qemu:///system"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """Where a repository is and how it is opened; `pack_size` in MiB."""

    location: str
    password_file: str | None = None
    password_command: str | None = None
    compression: Compression | None = None
    pack_size: PackSize | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Which VMs are backed up where, and what may be done to them.

    `shutdown_timeout` and `freeze_deadline` in seconds, `least_free_scratch` in MiB, `compare_within` in days.
    """

    repository: str | None = None
    vms: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    all: bool = False
    when_running: str = "live"
    shutdown_timeout: Seconds | None = None
    quiesce: str = "filesystem"
    least: str | None = None
    below_least: str = "fail"
    freeze_deadline: Seconds | None = None
    scratch: str | None = None
    least_free_scratch: Mebibytes | None = None
    compare_within: Days | None = None
    witness: tuple[str, ...] = ()
    parallel: Several | None = None
    together: bool = False
    skip_disks: tuple[str, ...] = ()
    include_isos: bool = False
    change_tracking: bool = True
    connect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillSettings:
    """What is checked when the VM of that name is drilled; `boot_timeout` in seconds, `memory` in MiB."""

    services: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    console: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    boot_timeout: Seconds | None = None
    memory: Several | None = None
    directory: str | None = None
    connect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the operator wrote; `origin` is the file, None if there is none."""

    origin: str | None = None
    repository: dict[str, RepositorySettings] = field(default_factory=dict)
    policy: dict[str, PolicySettings] = field(default_factory=dict)
    drill: dict[str, DrillSettings] = field(default_factory=dict)

    def find_policy(self, name: str) -> PolicySettings:
        """The policy of that name. Raises ConfigError."""
        if name not in self.policy:
            where = f"{self.origin} has none of that name" if self.origin else "there is no configuration file"
            raise ConfigError(f"cannot use policy {name!r}: {where}", hint=_nearest(name, self.policy))
        return self.policy[name]


_LEVELS = ("crash", "filesystem", "application")
_WORDS: Mapping[str, tuple[str, ...]] = {
    "when_running": ("live", "refuse", "shutdown", "suspend"),
    "quiesce": _LEVELS,
    "least": _LEVELS,
    "below_least": ("fail", "warn"),
}
_SECTIONS: Mapping[str, type[RepositorySettings | PolicySettings | DrillSettings]] = {
    "repository": RepositorySettings,
    "policy": PolicySettings,
    "drill": DrillSettings,
}

Settings = TypeVar("Settings", RepositorySettings, PolicySettings, DrillSettings)


def find_configuration(explicit: str | None, environ: Mapping[str, str]) -> Path | None:
    """The file that is in force, None if there is none; one that was asked for by name need not exist."""
    if named := explicit or environ.get("DONJON_CONFIG"):
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else None)
    places = [*([Path(home) / "donjon/config.toml"] if home else []), SYSTEM_CONFIG]
    return next((place for place in places if place.is_file()), None)


def load_configuration(path: Path | None) -> Configuration:
    """What the file says; an empty configuration without one.

    Raises:
        ConfigError: it cannot be read, or says what donjon does not understand; names line and key.
    """
    if path is None:
        return Configuration()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="see `donjon config example`") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: it is not UTF-8") from error
    return parse_configuration(text, origin=str(path))


def parse_configuration(text: str, *, origin: str) -> Configuration:
    """What a configuration says; `origin` is its file, for messages.

    Raises:
        ConfigError: it says what donjon does not understand; names line and key.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot use {origin}: {error}", hint="see `donjon config example`") from error
    source = _Source(text, origin)
    for name in tables:
        source.check_known(name, _SECTIONS, header="", kind="section")
    configuration = Configuration(
        origin=origin,
        repository=_parse_section(source, tables, "repository", RepositorySettings),
        policy=_parse_section(source, tables, "policy", PolicySettings),
        drill=_parse_section(source, tables, "drill", DrillSettings),
    )
    for name, policy in configuration.policy.items():
        _check_policy(source, configuration, name, policy)
    return configuration


@dataclass(frozen=True, slots=True)
class _Source:
    """The text, to find the line of what is wrong in it."""

    text: str
    origin: str

    def line_of(self, header: str, key: str | None) -> int | None:
        """The line of a key below [header], or of the header; None if they are written in a way not looked for."""
        here = ""
        for number, line in enumerate(self.text.splitlines(), start=1):
            if match := re.match(r"\s*\[([^\[\]]+)\]", line):
                here = match[1].replace('"', "").replace("'", "").replace(" ", "")
                if key is None and (here == header or here.startswith(f"{header}.")):
                    return number
            elif key is not None and here == header and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
                return number
        return None

    def error(self, header: str, key: str | None, problem: str, hint: str | None = None) -> ConfigError:
        line = self.line_of(header, key)
        where = f", line {line}" if line else ""
        what = f" [{header}]" if header else ""
        return ConfigError(f"cannot use {self.origin}{where}:{what} {problem}", hint=hint)

    def check_known(self, key: str, known: Iterable[str], *, header: str, kind: str) -> None:
        known = list(known)
        if key not in known:
            named = f"{header}.{key}" if kind == "section" and header else key
            line_key, line_header = (None, named) if kind == "section" else (key, header)
            raise self.error(line_header, line_key, f"unknown {kind} {key!r}", _nearest(key, known))


def _parse_section(
    source: _Source, tables: Mapping[str, Any], section: str, kind: type[Settings]
) -> dict[str, Settings]:
    entries = tables.get(section, {})
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise source.error(section, None, f"every {section} has a name: write [{section}.NAME]")
    return {name: _parse_entry(source, f"{section}.{name}", entry, kind) for name, entry in entries.items()}


def _parse_entry(source: _Source, header: str, entry: Mapping[str, Any], kind: type[Settings]) -> Settings:
    for key in entry:
        source.check_known(key, (known.name for known in fields(kind)), header=header, kind="key")
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        wrong = re.split(r"[.`\[]", place)[0] or None
        problem = problem[:1].lower() + problem[1:]
        raise source.error(header, wrong, f"{wrong}: {problem}" if wrong else problem) from error


def _check_policy(source: _Source, configuration: Configuration, name: str, policy: PolicySettings) -> None:
    header = f"policy.{name}"
    for key, words in _WORDS.items():
        if (said := getattr(policy, key)) is not None and said not in words:
            raise source.error(header, key, f"{key} is one of {', '.join(words)}, not {said!r}")
    if policy.repository is not None and policy.repository not in configuration.repository:
        raise source.error(
            header,
            "repository",
            f"there is no [repository.{policy.repository}]",
            _nearest(policy.repository, configuration.repository),
        )
    if _asks_too_much(policy):
        reached = f'more than quiesce = "{policy.quiesce}" can reach'
        raise source.error(header, "least", f'least = "{policy.least}" is {reached}, so every backup would fail')
    if policy.together and policy.when_running != "live":
        raise source.error(header, "together", 'together = true needs when_running = "live"')
    if not (policy.all or policy.vms or policy.labels):
        raise source.error(header, None, "it chooses no VM", "say vms, labels or all = true")


def _asks_too_much(policy: PolicySettings) -> bool:
    """Whether no live backup could be as consistent as it must be."""
    if policy.least is None or policy.below_least != "fail" or policy.when_running != "live":
        return False
    return _LEVELS.index(policy.least) > _LEVELS.index(policy.quiesce)


def _nearest(word: str, known: Iterable[str]) -> str | None:
    known = sorted(known)
    if close := get_close_matches(word, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(known)}" if known else None
