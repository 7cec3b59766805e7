# SPDX-License-Identifier: Apache-2.0
"""All verbs of the command line; each is loaded only when it is used, so that donjon starts at once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from cyclopts import App, Group, Parameter

from donjon.cli.plain_help import PlainHelp


class Verb(NamedTuple):
    """A verb: the function below donjon.cli.commands that does it, and what it does in a line."""

    name: str
    function: str
    help: str


_GROUPS: tuple[tuple[str, tuple[Verb, ...]], ...] = (
    (
        "Restore points",
        (
            Verb("backup", "backup:backup", "Make restore points of VMs."),
            Verb("restore", "restore:restore", "Bring a VM or a disk back."),
            Verb("instant", "instant:instant", "List the VMs that run from a repository."),
            Verb("drill", "drill:drill", "Prove that a restore point can be restored."),
            Verb("status", "status:status", "Show how well each VM is protected."),
            Verb("serve-nbd", "serve:serve_nbd", "Serve the disks of a restore point, read-only."),
            Verb("list", "points:list_points", "List restore points, or the repository's objects."),
            Verb("show", "points:show", "Show what a restore point holds."),
            Verb("diff", "points:diff", "Show what changed between two restore points."),
            Verb("mount", "mount:mount", "Show the disks of a restore point as files."),
        ),
    ),
    (
        "Repository",
        (
            Verb("init", "repository:init", "Make a new repository."),
            Verb("check", "upkeep:check", "Find out whether the repository is sound."),
            Verb("stats", "upkeep:stats", "Show what the repository holds, and what it saves."),
            Verb("cat", "objects:cat", "Print one object of the repository."),
            Verb("unlock", "upkeep:unlock", "Remove the locks of processes that have died."),
        ),
    ),
    (
        "Host",
        (
            Verb("vms", "vms:vms", "List the host's VMs, and when each was last backed up."),
            Verb("owed", "debts:owed", "Show what donjon has still to undo on this host."),
            Verb("settle", "debts:settle", "Undo what an interrupted run left behind."),
        ),
    ),
    ("Security", ()),
    (
        "donjon itself",
        (
            Verb("completion", "about:completion", "Print a completion script for a shell."),
            Verb("version", "about:version", "Show which donjon this is."),
        ),
    ),
)

_FAMILIES: tuple[tuple[str, str, str, tuple[Verb, ...]], ...] = (
    (
        "audit",
        "Security",
        "Look at hosts, and judge them.",
        (
            Verb("run", "audit:run", "Look at hosts, judge them, and report."),
            Verb("collect", "audit_collect:collect", "Only look at hosts, and keep what was seen."),
            Verb("report", "audit:report", "Show a report again, or write it in another form."),
            Verb("diff", "audit:diff", "Show what changed between two audits."),
            Verb("baseline", "audit_baseline:baseline", "Print a host's critical files as they are, for approval."),
            Verb("controls", "audit_catalogue:controls", "List what is judged."),
        ),
    ),
    (
        "audit profile",
        "Security",
        "Profiles: what hosts are judged against.",
        (
            Verb("list", "audit_catalogue:list_profiles", "List the profiles that donjon ships."),
            Verb("show", "audit_catalogue:show_profile", "Show a profile with all its defaults."),
        ),
    ),
    (
        "files",
        "Restore points",
        "Bring single files of a guest back.",
        (
            Verb("ls", "files:ls", "List a guest's volumes, or a directory."),
            Verb("find", "files:find", "List all that is below a directory."),
            Verb("get", "files:get", "Bring a file or a directory back."),
            Verb("tar", "files:tar", "Write a file or a directory as a tar archive."),
        ),
    ),
    (
        "harden",
        "Security",
        "Fix what an audit found, without locking anyone out.",
        (
            Verb("plan", "harden:plan", "Plan how what fails is fixed; change nothing."),
            Verb("show", "harden:show", "Show what a plan will do."),
            Verb("apply", "harden:apply", "Do what a plan says."),
            Verb("confirm", "harden:confirm", "Keep what was applied."),
            Verb("rollback", "harden:rollback", "Undo what a plan did."),
            Verb("pending", "harden:pending", "List the plans that a host knows of."),
            Verb("evacuate", "evacuate:evacuate", "Move running guests to another host before this one is patched."),
        ),
    ),
    (
        "gold",
        "Security",
        "Gold images: what VMs are made of.",
        (
            Verb("seal", "gold:seal", "Seal a finished gold image."),
            Verb("verify", "gold:verify", "Verify that a gold image is what was sealed."),
            Verb("diff", "gold:diff", "Show how far a clone has gone from its gold image."),
        ),
    ),
    (
        "advisories",
        "Security",
        "What vendors publish about holes in packages, for sites without a network.",
        (
            Verb("build", "advisories:build", "Make one signed file of what vendors publish."),
            Verb("import", "advisories:import_advisories", "Take such a file over."),
        ),
    ),
    (
        "key",
        "Repository",
        "Manage the passwords of the repository.",
        (
            Verb("add", "keys:add", "Let a further password open the repository."),
            Verb("list", "keys:list_keys", "List the repository's keys."),
            Verb("remove", "keys:remove", "Make a password useless."),
            Verb("passwd", "keys:passwd", "Change the password in use."),
        ),
    ),
    (
        "repair",
        "Repository",
        "Mend the repository.",
        (Verb("index", "upkeep:repair_index", "Build the index anew from the packs."),),
    ),
    (
        "config",
        "donjon itself",
        "Show and check the configuration.",
        (
            Verb("example", "configuration:example", "Print a configuration to begin with."),
            Verb("show", "configuration:show", "Print the configuration in force."),
            Verb("check", "configuration:check", "Find out whether the configuration makes sense."),
        ),
    ),
)

_DEFAULT_VERBS = {"audit": "run"}

_HELP = """Backup and recovery of virtual machines.

Every restore point is whole, every backup stores only what changed and reads no more than it must, and stock restic
can read the repository.
"""

_EPILOGUE = """Begin with:

    export DONJON_REPOSITORY=/backup/vms
    export DONJON_PASSWORD_FILE=/etc/donjon/main.password
    donjon init
    donjon backup --all
    donjon list

`donjon VERB --help` has examples.
"""


_PLAIN = Parameter(show_default=False, show_choices=False, negative="")


def make_app() -> App:
    """The command line, its verbs not loaded yet."""
    groups = {name: Group(name, sort_key=number, default_parameter=_PLAIN) for number, (name, _) in enumerate(_GROUPS)}
    app = App(
        name="donjon",
        help=_HELP,
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        help_formatter="default" if sys.stdout.isatty() else PlainHelp(),
        version_flags=[],
        default_parameter=_PLAIN,
        result_action="return_value",
    )
    app["--help"].show = False
    for name, verbs in _GROUPS:
        for number, verb in enumerate(verbs):
            _register(app, verb, number, groups[name])
    for name, group, purpose, verbs in _FAMILIES:
        *above, own = name.split()
        parent = app[above[0]] if above else app
        family = App(name=own, help=purpose, help_epilogue="", version_flags=[])
        family.group = groups[group] if not above else ()
        family["--help"].show = False
        for number, verb in enumerate(verbs):
            _register(family, verb, number)
        parent.command(family)
    return app


def load_verb(app: App, words: Sequence[str]) -> App:
    """The verb that the command line means, with the help that its function's docstring gives; or what it belongs to.

    Raises:
        CycloptsError: there is no such verb.
    """
    _, apps, _ = app.parse_commands(list(takewhile(lambda word: not word.startswith("-"), words)))
    found = apps[-1]
    if found.default_command and found is not app:
        text = inspect.getdoc(found.default_command) or ""
        story, _, examples = text.partition("\n\nExamples:\n")
        found.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in story.split("\n\n"))
        found.help_epilogue = f"Examples:\n{examples}".replace("\n\n", "\n") if examples else ""
    return found


def whole_verb(words: list[str]) -> list[str]:
    """What is meant where a family is named alone: `donjon audit` is `donjon audit run`."""
    family, rest = words[:1], words[1:]
    alone = not rest or rest[0].startswith("-")
    if not family or family[0] not in _DEFAULT_VERBS or not alone or {"-h", "--help"} & set(rest):
        return words
    return [*family, _DEFAULT_VERBS[family[0]], *rest]


def verb_names() -> list[tuple[str, ...]]:
    """The words of every verb: ("backup",), ("key", "add"), ..."""
    single = [(verb.name,) for _, verbs in _GROUPS for verb in verbs]
    return single + [(*family.split(), verb.name) for family, _, _, verbs in _FAMILIES for verb in verbs]


def _register(app: App, verb: Verb, number: int, group: Group | None = None) -> None:
    app.command(
        f"donjon.cli.commands.{verb.function}",
        name=verb.name,
        help=verb.help,
        group=group,
        sort_key=number,
        default_parameter=_PLAIN,
    )
