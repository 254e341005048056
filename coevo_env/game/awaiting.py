"""Coroutines called from code that is not asynchronous.

One idea: one event loop in a thread of its own for as long as the program lives, so that what a
coroutine keeps open (a connection, a session) is still open at its next call, and a notebook, which
runs a loop already, is no special case.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

__all__ = ["start"]


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The loop of this process; one that was forked has a number, and so a loop, of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="coevo-rewards", daemon=True).start()
    return loop


def start(coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Runs a coroutine in the background; `.result()` waits for what it returns."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))
