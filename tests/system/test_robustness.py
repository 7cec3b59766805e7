# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a guest and its host, in whatever order, every restore point is right (`make robustness`)."""

from __future__ import annotations

import pytest

from lab import LabUnavailableError
from lab.robustness import perform

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

STEPS = 8


@pytest.mark.parametrize("seed", [1])
def test_every_restore_point_is_right_whatever_happens(seed: int) -> None:
    try:
        assert perform(seed, lambda steps: steps < STEPS, print) == STEPS
    except LabUnavailableError as error:
        pytest.skip(str(error))
