"""A test double of the W&B server that this process, and those it starts, take for theirs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dpo.tracking import wandb as mirror

from .server import Server


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """serve(**options) -> a running Server in the environment; what the client remembers of it is forgotten after."""
    with ExitStack() as stack:

        def start(**options: Any) -> Server:
            mirror.client().teardown()  # of an earlier test's runs, which knew another server
            server = stack.enter_context(Server(**options))
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            return server

        yield start
        mirror.client().teardown()
        mirror.LOST.clear()
        mirror.USED.clear()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server that answers."""
    return serve()
