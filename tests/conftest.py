# SPDX-License-Identifier: Apache-2.0
"""What all suites share: how Hypothesis searches, and which tests this machine cannot run."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run; `pytest --hypothesis-profile=deep` looks further, at random.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# What is started in the background of a script has SIGINT ignored, and so have all it starts: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("interop") and shutil.which("restic") is None:
        pytest.skip("needs restic: apt-get install restic")
