# SPDX-License-Identifier: Apache-2.0
"""What a fix wants changed on a host, and the register of the fixes that donjon has.

A fix is a pure function: it sees one result of an audit and the facts of that host, and says what it wants. How the
host looks at that moment, what exactly will change, and how it is undone is not its business: the plan sees to it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable

from msgspec import Struct

from donjon.audit.catalogue import FixClass
from donjon.audit.facts.host import Host
from donjon.audit.judge import Result
from donjon.audit.profile import Profile
from donjon.harden.editors import Rewrite


class Edit(Struct, frozen=True):
    """The text of a file is to be what `rewrite` makes of it; edits of one file in a plan become one step.

    Attributes of the file stay. `mode` is for a file that is not there yet; None: it must be there. The folder it is
    in is made if need be (0755).
    """

    path: str
    rewrite: Rewrite
    mode: int | None = None


class Document(Struct, frozen=True):
    """A text that a command prints and another one takes, such as the definition of a VM; edits become one step.

    `read` and `write` are sh; `write` finds the text in the file "$FILE". Undo writes what was read.
    """

    name: str
    read: str
    write: str
    rewrite: Rewrite


class Permissions(Struct, frozen=True):
    """A path is to have no more permission bits than `at_most`, and to belong to `owner` ("root:kvm", "": as it is)."""

    path: str
    at_most: int = 0o7777
    owner: str = ""


class Command(Struct, frozen=True):
    """Pieces of sh, each stopping at the first command that fails: `do`, and `undo`.

    `state` prints what `do` is about to change: it must be the same when the plan is applied, and it is kept on the
    host in the file "$BEFORE", where `undo` finds it. `undo` must be harmless when `do` was not, or half, done, and
    when it has run before. Below "$ROOT" is the host's file system.
    """

    title: str
    do: str
    undo: str
    state: str = ":"


class Chain(Struct, frozen=True):
    """A chain of donjon's own firewall table, at the hook "input" or "forward"; the chains of a plan become one step.

    `rules` are nft's, without what comes before the matches. Whoever administers the host stays in, whatever they
    say; packets of connections that exist already, and of loopback, pass. As each control has a chain of its own,
    and a packet must pass all of them, a chain can only tighten. It is kept over a reboot from the confirm on.
    """

    name: str
    rules: tuple[str, ...]
    hook: str = "input"
    policy: str = "accept"
    admins: tuple[str, ...] = ()


Want = Edit | Document | Permissions | Command | Chain


class Change(Struct, frozen=True):
    """What a fix wants: `title` says how things will be ("VNC of web1 listens on loopback only").

    `activate`: sh that makes a service read what has changed; run once per plan after all steps, and after an undo.
    `tests`: sh that must succeed then, or everything is undone. `preview`: sh that changes nothing, run when planning;
    it must succeed, and what it prints is shown. `guests`: names of VMs that notice. `fix_class`: the control's own if
    None. `note`: what the operator should know, such as when it comes into force.
    """

    title: str
    wants: tuple[Want, ...]
    activate: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    preview: str = ""
    guests: tuple[str, ...] = ()
    fix_class: FixClass | None = None
    note: str = ""


Fix = Callable[[Result, Host, Profile], Change | None]
"""None: this result cannot be fixed by a program; its instructions are shown then."""

_fixes: dict[str, Fix] = {}


def fix(control: str) -> Callable[[Fix], Fix]:
    """Mark a function as the fix of a control.

    Raises:
        ValueError: the control has a fix already.
    """

    def register(function: Fix) -> Fix:
        if control in _fixes:
            raise ValueError(f"two fixes for {control}")
        _fixes[control] = function
        return function

    return register


def registered() -> dict[str, Fix]:
    """Control -> fix, of the modules that have been imported; `donjon.harden.fixes.fixes` imports them all."""
    return dict(_fixes)


def words(*argv: str) -> str:
    """A command of these words as sh; names from facts come from guests and must never be put into sh bare."""
    return shlex.join(argv)
