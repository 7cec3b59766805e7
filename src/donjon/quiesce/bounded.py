# SPDX-License-Identifier: Apache-2.0
"""Calls made at the same time, each given up when its time is over: what hangs is left behind in a daemon thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from donjon.errors import HostError

Result = TypeVar("Result")


def together(call: Callable[[str], Result], uuids: Iterable[str], timeout_s: float) -> dict[str, Result | HostError]:
    """What came of the call for each guest: its result, or the HostError that it raised or that says it hangs."""
    futures = {uuid: _begun(call, uuid) for uuid in uuids}
    wait(futures.values(), timeout_s)
    results: dict[str, Result | HostError] = {}
    for uuid, future in futures.items():
        result = _result(future, timeout_s)
        results[uuid] = result
    return results


def bounded(call: Callable[[str], Result], uuid: str, timeout_s: float) -> Result:
    """One call, given up after its time.

    Raises:
        HostError: it raised one, or did not end in time.
    """
    result = together(call, [uuid], timeout_s)[uuid]
    if isinstance(result, HostError):
        raise result
    return result


def until(deadline: float) -> float:
    """Seconds left until a time of the monotonic clock."""
    return max(0.0, deadline - time.monotonic())


def _begun(call: Callable[[str], Result], uuid: str) -> Future[Result]:
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call(uuid))
        except HostError as error:
            future.set_exception(error)
        except BaseException as error:
            future.set_exception(error)
            raise

    Thread(target=run, name=f"guest-{uuid}", daemon=True).start()
    return future


def _result(future: Future[Result], timeout_s: float) -> Result | HostError:
    if not future.done():
        return HostError(f"the host did not answer within {timeout_s:g} s")
    try:
        return future.result()
    except HostError as error:
        return error
