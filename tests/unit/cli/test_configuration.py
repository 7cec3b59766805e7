# SPDX-License-Identifier: Apache-2.0
"""The configuration file: what it can say, and how it is told that it says something wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donjon.config import (
    EXAMPLE,
    PolicySettings,
    RepositorySettings,
    find_configuration,
    load_configuration,
    parse_configuration,
)
from donjon.errors import ConfigError
from donjon.model.vm import Power
from tests.unit.cli.conftest import Cli, make_raw
from tests.unit.cli.test_round_trip import DEFINITION

DOCS = Path(__file__).parents[3] / "docs"


def test_the_example_makes_sense_and_uses_every_key() -> None:
    configuration = parse_configuration(EXAMPLE, origin="example")
    assert configuration.repository["main"].location == "/backup/vms"
    assert configuration.policy["nightly"].labels == ("tier=db", "backup")
    for kind in (RepositorySettings, PolicySettings):
        assert [field.name for field in fields(kind) if field.name not in EXAMPLE] == []


def test_the_page_about_it_has_the_example_and_every_key() -> None:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert EXAMPLE in page
    for kind in (RepositorySettings, PolicySettings):
        assert [field.name for field in fields(kind) if f"| `{field.name}` |" not in page] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[repository.a]\nlocation = "/x"\npasword_file = "/y"',
            ("line 3", "[repository.a]", "did you mean 'password_file'"),
        ),
        ('[repositry.a]\nlocation = "/x"', ("line 1", "did you mean 'repository'")),
        ("[repository.a]\ncompression = 3", ("line 1", "location")),
        ('[repository.a]\nlocation = "/x"\n\ncompression = 20', ("line 4", "compression", "<= 19")),
        ('[repository.a]\nlocation = "/x"\npack_size = "big"', ("line 3", "pack_size", "expected `int")),
        ('[repository]\nlocation = "/x"', ("[repository.NAME]",)),
        ('[policy.n]\nvms = ["a"]\nwhen_running = "kill"', ("line 3", "refuse, shutdown, suspend", "'kill'")),
        ('[policy.n]\nvms = ["a"]\nrepository = "b"', ("line 3", "no [repository.b]")),
        ("[policy.n]\nall = false", ("line 1", "chooses no VM")),
        ("[policy.n\n", ("at line 1",)),
    ],
)
def test_what_makes_no_sense_is_named_with_its_line(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_configuration(text, origin="donjon.toml")
    said = f"{caught.value} {caught.value.hint}"
    assert [word for word in ("donjon.toml", *words) if word not in said] == []


@given(st.text())
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        parse_configuration(text, origin="any")
    except ConfigError as error:
        assert "any" in str(error)


def test_the_nearest_file_is_used(tmp_path: Path) -> None:
    own = tmp_path / "donjon/config.toml"
    own.parent.mkdir()
    own.write_text("", encoding="utf-8")
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_configuration(None, environ) == own
    assert find_configuration(None, {**environ, "DONJON_CONFIG": "/a"}) == Path("/a")
    assert find_configuration("/b", {**environ, "DONJON_CONFIG": "/a"}) == Path("/b")


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_configuration(tmp_path / "nothing")


def test_a_policy_chooses_vms_and_what_may_be_done_to_them(cli: Cli, home: Path) -> None:
    make_raw(home / "a.img", {0: b"x"})
    vm = cli.hypervisor.define(DEFINITION.format(image=home / "a.img"))
    cli.hypervisor.start(vm.uuid)
    text = f"""
    [repository.main]
    location = "{home}/repo"
    [policy.nightly]
    repository = "main"
    labels = ["tier=web"]
    vms = ["web01"]
    when_running = "suspend"
    """
    (home / "donjon.toml").write_text(text, encoding="utf-8")
    del cli.environ["DONJON_REPOSITORY"]
    outcome = cli("backup", "--policy", "nightly", "--config", "donjon.toml", "--json")
    assert outcome.exit_code == 0, outcome.err
    assert [backup["restore_point"]["consistency"] for backup in outcome.json["backups"]] == ["crash"]
    assert cli.hypervisor.power(vm.uuid) is Power.RUNNING
    missing = cli("backup", "--policy", "nigthly", "--config", "donjon.toml")
    assert "did you mean 'nightly'?" in missing.err


def test_it_is_shown_as_toml_that_means_the_same(fresh: Cli, home: Path) -> None:
    example = fresh("config", "example").out
    assert example == EXAMPLE
    (home / "donjon.toml").write_text(example, encoding="utf-8")
    shown = fresh("config", "show", "--config", "donjon.toml").out
    before, after = (parse_configuration(text, origin="x") for text in (example, shown))
    assert before == after
    assert "1 repository, 1 policy" in fresh("config", "check", "--config", "donjon.toml").out
    assert fresh("config", "check", DONJON_CONFIG="nothing").exit_code == 1
