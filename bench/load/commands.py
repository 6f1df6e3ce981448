"""What a cell's users send: a long seeded sequence, the same for every kind of client."""

from __future__ import annotations

import random

from bench.model import Workload
from bench.rig.server import KEY_PREFIX

COMMANDS = ("GET", "SET", "EVAL")
COMMANDS_AHEAD = 4096
BUSY_SCRIPT = "for i = 1, ARGV[1] do end"

Words = tuple[str | bytes, ...]


def draw(work: Workload, seed: int) -> list[tuple[str, list[Words]]]:
    """The name of each request's command, and its words, once for each of a pipeline; users share
    the sequence and go round and round, since building a command costs more than sending it."""
    rng = random.Random(seed)
    return [_request(work, rng) for _ in range(max(1, COMMANDS_AHEAD // work.depth))]


def _request(work: Workload, rng: random.Random) -> tuple[str, list[Words]]:
    """A pipeline's commands are all of one kind."""
    name = "GET" if rng.random() < work.get_share else "SET"
    if work.script_loops:
        name = "EVAL"
    return name, [_words(name, rng.randrange(work.keys), work) for _ in range(work.depth)]


def _words(name: str, key: int, work: Workload) -> Words:
    if name == "EVAL":
        return ("EVAL", BUSY_SCRIPT, "0", str(work.script_loops))
    if name == "GET":
        return ("GET", f"{KEY_PREFIX}{key}")
    return ("SET", f"{KEY_PREFIX}{key}", b"x" * work.value_bytes)
