# SPDX-License-Identifier: Apache-2.0
"""Which host is collected from, and the command line that runs a shell there.

Source: ssh(1), ssh_config(5).
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from msgspec import Struct

from donjon.errors import ConfigError

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:%-]*")
_SSH = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ClearAllForwardings=yes"),
    *("-o", "ForwardAgent=no"),
    *("-o", "ForwardX11=no"),
    *("-o", "RemoteCommand=none"),
    *("-o", "ConnectTimeout=15"),
)
_LEGACY = (
    *("-o", "HostKeyAlgorithms=+ssh-rsa"),
    *("-o", "PubkeyAcceptedAlgorithms=+ssh-rsa"),
    *("-o", "KexAlgorithms=+diffie-hellman-group14-sha1"),
)


class Target(Struct, frozen=True):
    """A host. `host` may be a name of the user's ssh_config; "" is this machine.

    `legacy`: also allow what sshd of Oracle VM 3 and RHEL 5 knows only. `sudo`: become root with `sudo -n`.
    """

    host: str = ""
    user: str = ""
    port: int = 0
    legacy: bool = False
    sudo: bool = False

    def __str__(self) -> str:
        """As the operator writes it."""
        if not self.host:
            return "local"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ssh://{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"

    def shell(self) -> tuple[str, ...]:
        """The command line of a shell there that reads its commands from standard input."""
        shell = ("sudo", "-n", "sh", "-s") if self.sudo else ("sh", "-s")
        if not self.host:
            return shell
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port else ()
        return ("ssh", *_SSH, *(_LEGACY if self.legacy else ()), *user, *port, "--", self.host, " ".join(shell))


def parse_target(text: str, *, legacy: bool = False, sudo: bool = False) -> Target:
    """What the operator wrote: "local", or "ssh://USER@HOST:PORT" (user and port may be left out).

    Raises:
        ConfigError: it is neither.
    """
    if text == "local":
        return Target(sudo=sudo)
    try:
        url = urlsplit(text)
        host, user, port = url.hostname or "", url.username or "", url.port or 0
    except ValueError as error:
        raise _wrong(text) from error
    if ":" not in host:  # a name of ssh_config is taken as written; urlsplit makes it lower case
        host = url.netloc.rpartition("@")[2].partition(":")[0]
    extra = url.path.strip("/") or url.query or url.fragment or url.password is not None
    if url.scheme != "ssh" or extra or not _SAFE.fullmatch(host) or not (not user or _SAFE.fullmatch(user)):
        raise _wrong(text)
    return Target(host, user, port, legacy, sudo)


def _wrong(text: str) -> ConfigError:
    shown = re.sub(r":[^/@]+@", ":...@", text)
    return ConfigError(
        f"cannot collect from {shown!r}: no such kind of host", hint="write local or ssh://user@host:port"
    )
