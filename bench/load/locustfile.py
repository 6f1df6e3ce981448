"""What `locust --worker -f` loads: the users of the benchmark, driven by its master's messages."""

from bench.load.agent import VirtualUser

__all__ = ["VirtualUser"]
