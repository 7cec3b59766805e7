# SPDX-License-Identifier: Apache-2.0
"""Bundles: what was seen of hosts, kept as evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from donjon.audit.collect.collecting import collect as collect_one
from donjon.audit.collect.collecting import collect_many
from donjon.audit.collect.target import Target
from donjon.cli.commands.audit_hosts import Places
from donjon.cli.commands.audit_result import NotCollected, not_collected, show_not_collected
from donjon.cli.options import COMMON, Common
from donjon.cli.output import check_new
from donjon.cli.page import Page
from donjon.cli.result import Deed
from donjon.cli.text import count, size
from donjon.errors import ConfigError, DonjonError, IncompleteError
from donjon.images.new_file import new_file

_PLACES = Places()
_OUTPUT = "Takes the bundle; a directory, if there are several hosts."


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle; its size in bytes."""

    host: str
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Collected(Deed):
    """What was collected, and the hosts that could not be looked at."""

    bundles: tuple[Bundled, ...]
    not_collected: tuple[NotCollected, ...]

    @property
    def exit_code(self) -> int:
        """3 if a host could not be looked at."""
        return IncompleteError.exit_code if self.not_collected else 0

    def show(self, page: Page) -> None:
        """A line for each."""
        for one in self.bundles:
            page.line(f"{one.host}: {one.path} ({size(one.size)})")
        show_not_collected(self.not_collected, page)


def collect(
    *,
    places: Places = _PLACES,
    output: Annotated[Path, Parameter(name=["--output", "-o"], metavar="FILE|DIR", help=_OUTPUT)],
    common: Common = COMMON,
) -> Collected:
    """Only look at hosts, and keep what was seen in a bundle: a tar file, evidence and input of `audit run --bundle`.

    Nothing is installed and nothing is changed on a host; secrets never leave it. Without --host, at this machine.
    No bundle is ever written over another. Ends with 3 if one of several hosts could not be looked at.

    Examples:
        donjon audit collect -o kvm1.tar

        donjon audit collect --host ssh://admin@kvm1 --host ssh://admin@kvm2 --sudo -o bundles/
    """
    del common
    targets = places.targets() or [Target(sudo=places.sudo)]
    if output.is_dir():
        return _collected(collect_many(targets, output, parallel=places.parallel))
    if len(targets) > 1:
        raise ConfigError(f"cannot collect {count(len(targets), 'bundle')} in {output}: it is no directory")
    check_new(output)
    with new_file(output, exist_ok=False) as unfinished, unfinished.open("wb") as file:
        collect_one(targets[0], file)
    return _collected({targets[0]: output})


def _collected(found: Mapping[Target, Path | DonjonError]) -> Collected:
    done = [
        Bundled(str(target), str(one), one.stat().st_size) for target, one in found.items() if isinstance(one, Path)
    ]
    failed = [not_collected(target, one) for target, one in found.items() if isinstance(one, DonjonError)]
    return Collected(tuple(done), tuple(failed))
