"""Fixtures for tests that talk to a real OpenSSH server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .ssh_server import SshServer, running_server


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """A server of the test's own, which it may cut and stop."""
    with running_server(tmp_path_factory.mktemp("ssh")) as made:
        yield made
