"""docs/clients.md, written from the data that `bench size` prints: it is no second truth."""

from __future__ import annotations

from dataclasses import fields

from bench.sizing.advice import advise
from bench.sizing.clients import CLIENTS, Client, Plan, settings
from bench.sizing.defaults import DEFAULTS
from bench.sizing.hops import HOPS, Hop
from bench.sizing.quantities import span
from bench.sizing.question import Asked, checked

RATE, LATENCY = "10000/s", "1ms"
HEAD = f"""\
# Settings, client by client

`make clients` writes this page from what `bench size` knows; edit `bench/sizing/`, not this file.
The settings are those for {RATE} at {LATENCY} on a path of which nothing is known: run
`.venv/bin/bench size` for your own numbers. Keepalive is idle/interval/probes.
"""
PATH = """\
## What closes an idle connection

| hop | its name in `--idle-timeout` | closes after | the client sees | keepalive counts there |
|---|---|---|---|---|
"""


def clients_page() -> str:
    """The whole page, as Markdown."""
    advice = advise(checked(Asked(RATE, latency=LATENCY), None))
    parts = [HEAD, _reasons(advice.timeouts.reasons)]
    parts += [_section(client, advice.plan) for client in CLIENTS.values()]
    return "\n".join([*parts, PATH + "".join(map(_row, HOPS.values()))])


def _reasons(reasons: dict[str, str]) -> str:
    lines = [f"- **{name.replace('_', ' ')}**: {why}\n" for name, why in reasons.items()]
    return "## Why these values\n\n" + "".join(lines)


def _section(client: Client, plan: Plan) -> str:
    notes = "".join(f"- {note}\n" for note in client.notes(plan))
    pasted = f"```\n{settings(client, plan)}\n```\n"
    return f"## {client.name} {client.version}\n\n{_defaults(client.name)}\n{pasted}\n{notes}"


def _defaults(name: str) -> str:
    own = DEFAULTS[name]
    rows = [
        f"| {field.name.replace('_', ' ')} | {getattr(own, field.name) or '–'} |\n"
        for field in fields(own)
    ]
    return "| left alone | |\n|---|---|\n" + "".join(rows)


def _row(hop: Hop) -> str:
    after = "never" if hop.closes_after_s is None else span(hop.closes_after_s)
    counts = "yes" if hop.refreshed else "no"
    return f"| {hop.source} | `{hop.name}` | {after} | {hop.sees} | {counts} |\n"
