# SPDX-License-Identifier: Apache-2.0
"""Options of an instant restore that make no sense together are refused before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from donjon.cli.commands.restore_options import Instant, Manner, Target, check_instant
from donjon.errors import ConfigError

HERE = Target(directory=Path("/srv"))
NOWHERE = Target()
USUAL = Manner()


@pytest.mark.parametrize(
    ("instant", "target", "manner", "says"),
    [
        (Instant(instant=True), NOWHERE, USUAL, "--directory or --pool"),
        (Instant(instant=True), Target(to_dir=Path("/srv")), USUAL, "--directory or --pool"),
        (Instant(instant=True), Target(in_place=True), USUAL, "--directory or --pool"),
        (Instant(instant=True), Target(directory=Path("/srv"), disk_to=("vda=/dev/x",)), USUAL, "--disk-to"),
        (Instant(instant=True), HERE, Manner(format="raw"), "--format"),
        (Instant(instant=True), HERE, Manner(start=True), "--start"),
        (Instant(instant=True, finish=True), HERE, USUAL, "say one of"),
        (Instant(resume=True, discard=True), NOWHERE, USUAL, "say one of"),
        (Instant(finish=True), HERE, USUAL, "no other options"),
        (Instant(resume=True), NOWHERE, Manner(name="other"), "no other options"),
        (Instant(discard=True), NOWHERE, Manner(connect="qemu:///session"), "no other options"),
    ],
)
def test_what_makes_no_sense_is_refused(instant: Instant, target: Target, manner: Manner, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_instant(instant, target, manner)


@pytest.mark.parametrize(
    ("instant", "target", "manner"),
    [
        (Instant(), NOWHERE, USUAL),
        (Instant(instant=True), HERE, Manner(name="other", new_identity=True, connect="qemu:///session")),
        (Instant(instant=True), Target(pool="default"), Manner(no_lock=True)),
        (Instant(finish=True), NOWHERE, Manner(no_lock=True)),
        (Instant(resume=True), NOWHERE, USUAL),
        (Instant(discard=True), NOWHERE, USUAL),
    ],
)
def test_what_makes_sense_is_let_through(instant: Instant, target: Target, manner: Manner) -> None:
    check_instant(instant, target, manner)
