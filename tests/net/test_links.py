"""Both backends pass one suite."""

import asyncio

import pytest

from veilsum.testing import conformance


@pytest.mark.parametrize("check", conformance.SUITE, ids=lambda check: check.__name__)
@pytest.mark.parametrize("backend", [conformance.memory_links, conformance.tls_links], ids=["memory", "tls"])
def test_links(backend, check, clean):
    clean(lambda: asyncio.wait_for(check(backend), 20))
