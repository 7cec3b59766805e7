# SPDX-License-Identifier: Apache-2.0
"""The configuration file, shown and checked."""

from __future__ import annotations

from dataclasses import dataclass, fields

from donjon.cli.options import COMMON, Common, Given
from donjon.cli.page import Page
from donjon.cli.result import Deed, Result
from donjon.cli.session import Session
from donjon.config import EXAMPLE, Configuration, DrillSettings, PolicySettings, RepositorySettings
from donjon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Example(Result):
    """A configuration to begin with, as TOML."""

    toml: str

    def show(self, page: Page) -> None:
        """As it is."""
        page.raw(self.toml)


@dataclass(frozen=True, slots=True)
class Shown(Result):
    """The configuration in force."""

    configuration: Configuration

    def show(self, page: Page) -> None:
        """As TOML; what is not set is left out."""
        origin = self.configuration.origin
        page.line(f"# from {origin}" if origin else "# there is no configuration file")
        for section in ("repository", "policy", "drill"):
            for name, settings in getattr(self.configuration, section).items():
                page.line()
                page.line(f"[{section}.{_toml(name)}]")
                for key, value in _set_fields(settings):
                    page.line(f"{key} = {_toml(value)}")


@dataclass(frozen=True, slots=True)
class Sensible(Deed):
    """A configuration that makes sense."""

    origin: str
    repositories: tuple[str, ...]
    policies: tuple[str, ...]

    def show(self, page: Page) -> None:
        """One line."""
        policies = "1 policy" if len(self.policies) == 1 else f"{len(self.policies)} policies"
        repositories = "1 repository" if len(self.repositories) == 1 else f"{len(self.repositories)} repositories"
        page.line(f"{self.origin} makes sense: {repositories}, {policies}")


def example(*, common: Common = COMMON) -> Example:
    """Print a configuration to begin with.

    Examples:
        donjon config example > /etc/donjon/config.toml
    """
    del common
    return Example(EXAMPLE)


def show(*, common: Common = COMMON, program: Given) -> Shown:
    """Print the configuration in force.

    It holds no passwords, only where they come from.

    Examples:
        donjon config show
    """
    return Shown(Session(common, program).configuration)


def check(*, common: Common = COMMON, program: Given) -> Sensible:
    """Find out whether the configuration makes sense.

    Examples:
        donjon config check --config ./new.toml
    """
    configuration = Session(common, program).configuration
    if configuration.origin is None:
        raise ConfigError("cannot check the configuration: there is none", hint="`donjon config example` prints one")
    return Sensible(configuration.origin, tuple(configuration.repository), tuple(configuration.policy))


def _set_fields(settings: RepositorySettings | PolicySettings | DrillSettings) -> list[tuple[str, object]]:
    values = [(field, getattr(settings, field.name)) for field in fields(settings)]
    return [(field.name, value) for field, value in values if value is not None and value != field.default]


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" if c in '"\\' or not c.isprintable() else c for c in value) + '"'
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
    return str(value)
