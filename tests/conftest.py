"""Settings of all tests: what a machine may lack, how long hypothesis searches, what a loop leaves behind."""

import asyncio
import gc
import importlib.util
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", max_examples=1_000_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def present(tool):
    """Whether a tool is on the machine: a program, ``cpu:FLAG`` or ``python:MODULE``."""
    if tool.startswith("cpu:"):
        return tool.removeprefix("cpu:") in Path("/proc/cpuinfo").read_text(errors="replace").split()
    if tool.startswith("python:"):
        return importlib.util.find_spec(tool.removeprefix("python:")) is not None
    return shutil.which(tool) is not None


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # what is imported by now stays, and need not be looked through after every test


def pytest_unconfigure():
    gc.unfreeze()


def pytest_runtest_setup(item):
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            if present(tool):
                continue
            if os.environ.get("VEILSUM_REQUIRE") == "all":
                pytest.fail(f"{tool} is not on this machine, and VEILSUM_REQUIRE=all asks for it")
            pytest.skip(f"{tool} is not on this machine")


def _descriptors():
    gc.collect()
    return sorted(str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


async def _watched(start, complaints):
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    loop.slow_callback_duration = 10
    before = _descriptors()
    try:
        return await start()
    finally:
        for _ in range(3):
            await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        after = _descriptors()
        assert len(after) <= len(before), (after, before)


@pytest.fixture
def clean():
    """Return ``run(start)``: awaits ``start()`` in a loop with debugging on and returns what it returns."""

    def run(start, *, debug=True):
        complaints, threads = [], set(threading.enumerate())
        result = asyncio.run(_watched(start, complaints), debug=debug)
        deadline = time.monotonic() + 1
        while (left := set(threading.enumerate()) - threads) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, left
        assert not complaints, complaints
        gc.collect()  # whatever was not closed complains now
        return result

    return run
