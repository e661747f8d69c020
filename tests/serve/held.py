"""A model that computes when it is let."""

import asyncio
import threading
from typing import Any

from mrt5_jax.serve.app import Service

from .asgi import SECONDS


class Held:
    """Holds back what a service computes, until `go_on` is set."""

    def __init__(self, service: Service) -> None:
        self.computing, self.go_on, compute = threading.Event(), threading.Event(), service.batcher._compute

        def wait(shape: Any, works: Any) -> Any:
            self.computing.set()
            self.go_on.wait()
            return compute(shape, works)

        service.batcher._compute = wait

    async def begun(self) -> None:
        """Waits until it computes."""
        assert await asyncio.to_thread(self.computing.wait, SECONDS)
