# SPDX-License-Identifier: Apache-2.0
"""A libvirt of its own for each test process, and a guest to run on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import LabUnavailableError
from lab.guest_kit import GuestKit
from lab.guest_kit import guest_kit as build_guest_kit
from lab.libvirt_host import private_libvirt


@pytest.fixture(scope="session")
def guest_kit() -> GuestKit:
    """What a guest boots."""
    try:
        return build_guest_kit()
    except LabUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def libvirt_uri() -> Iterator[str]:
    """A libvirt daemon that runs guests and that nobody else uses."""
    try:
        with private_libvirt() as uri:
            yield uri
    except LabUnavailableError as error:
        pytest.skip(str(error))
