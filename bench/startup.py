# SPDX-License-Identifier: Apache-2.0
"""How long `donjon` takes before it does anything: wall seconds of help, and of `list` on an empty repository."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

RUNS = 15


def seconds(argv: list[str], environment: dict[str, str]) -> float:
    """Wall time of one run; the run must succeed."""
    begin = time.perf_counter()
    subprocess.run(argv, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def measure(donjon: Path) -> dict[str, list[float]]:
    """Seconds of every run, by what was run; the two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        repository = f"{folder}/repository"
        environment = {"DONJON_PASSWORD": "bench", "DONJON_STATE_DIR": f"{folder}/state"}
        subprocess.run(
            [donjon, "init", "-r", repository],
            env={**os.environ, **environment},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        commands = {
            "--help": [str(donjon), "--help"],
            "audit --help": [str(donjon), "audit", "run", "--help"],
            "list": [str(donjon), "list", "-r", repository],
        }
        times: dict[str, list[float]] = {words: [] for words in commands}
        for _ in range(RUNS):
            for words, argv in commands.items():
                times[words].append(seconds(argv, environment))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("donjon", type=Path, nargs="?", default=Path(__file__).parent.parent / ".venv/bin/donjon")
    parser.add_argument("--json", action="store_true", help="every single time")
    options = parser.parse_args()
    times = measure(options.donjon.absolute())
    if options.json:
        print(json.dumps(times))
    else:
        for words, runs in times.items():
            print(f"donjon {words:13s} {median(runs) * 1000:6.0f} ms ({min(runs) * 1000:.0f}-{max(runs) * 1000:.0f})")


if __name__ == "__main__":
    main()
