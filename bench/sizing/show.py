"""The answer on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.report.display import ENDLESS, open_console
from bench.sizing.advice import MUCH, RECOMMENDED, Advice
from bench.sizing.clients import settings
from bench.sizing.pools import Size, percent
from bench.sizing.quantities import counted, per_second, span
from bench.sizing.timeouts import Timeouts

WIDE = 80
NARROW = 75  # below, what is a table else is told line by line
NOT_TOLD = "–"


def show(advice: Advice) -> None:
    """Print the size with its reason, other sizes, timeouts, settings and assumptions."""
    console = open_console()
    console.print(f"[bold]{_headline(advice)}[/bold]")
    console.print()
    for sentence in _reasons(advice):
        console.print(Padding(escape(sentence), (0, 0, 0, 2), expand=False))
    console.print()
    table = _sizes(advice)
    narrow = console.width < max(NARROW, _width(console, table))
    console.print(_sizes_apart(advice) if narrow else table)
    for name, size in advice.sizes.items():
        if not size.stable:
            console.print(_endless(name, size))
    console.print(
        f"simulated: {advice.simulated_requests:,} requests, hold times as given\n", style="dim"
    )
    console.print(_timeouts(advice.timeouts, narrow), "")
    for client in advice.question.clients:
        console.print(f"[bold]{client.name}[/bold] (options as of {client.version})")
        console.print(Text(settings(client, advice.plan)), soft_wrap=True)
        for note in client.notes(advice.plan):
            _print_item(console, note)
        console.print()
    console.print("[bold]Assumed[/bold]")
    for assumption in advice.question.assumptions:
        _print_item(console, assumption)


def _width(console: Console, table: Table) -> int:
    """What the table takes where nothing of it is left out."""
    return console.measure(table, options=console.options.update(width=ENDLESS)).maximum


def _print_item(console: Console, text: str) -> None:
    item = Table.grid(padding=(0, 1, 0, 0))
    item.add_row("-", escape(text))
    console.print(Padding(item, (0, 0, 0, 2), expand=False))


def _headline(advice: Advice) -> str:
    pods = advice.question.pods
    if pods == 1:
        return f"Pool size: {counted(advice.connections, 'connection')}"
    return (
        f"Pool size: {counted(advice.connections, 'connection')} in each of {pods:,} pods, "
        f"{advice.connections_total:,} in all"
    )


def _reasons(advice: Advice) -> list[str]:
    question, load = advice.question, advice.question.at_peak
    best = advice.sizes[RECOMMENDED]
    met = " and ".join(map(str, question.objectives))
    pod = "" if question.pods == 1 else " in each pod"
    told = [
        f"{load}{pod} keep {_calls(load.in_flight)} in flight on average, and about "
        f"{load.in_flight_peak:,} at the peak of a minute.",
        f"With {counted(best.connections, 'connection')} {percent(best.wait_share)} of requests "
        f"find none free, and the p99 of the wait is {span(_p99_s(advice, best))} (asked: {met}).",
        *_flat_rule(advice),
        f"{_together(advice.connections_total)} {percent(advice.maxclients_share)} of "
        f"maxclients {question.maxclients:,}{_deploy(advice)}.",
        f"Latency: {question.hold.source}.",
    ]
    if question.peak_per_s > question.rate_per_s:
        told.insert(
            1,
            f"That is the peak; the mean rate of {per_second(question.rate_per_s)} alone would "
            f"take {advice.connections_for_mean_rate:,}{pod}.",
        )
    return told


def _calls(in_flight: float) -> str:
    if in_flight < 0.001:
        return "less than 0.001 calls"
    said = f"{in_flight:,.0f}" if in_flight >= 100 else f"{in_flight:.3g}"
    return f"{said} call" if said == "1" else f"{said} calls"


def _together(connections: int) -> str:
    return f"{counted(connections, 'connection')} {'is' if connections == 1 else 'are'}"


def _flat_rule(advice: Advice) -> list[str]:
    """Nothing below one call in flight, where a multiple of it means nothing."""
    if advice.question.at_peak.in_flight < 1:
        return []
    return [f"The flat rule of 2 × the mean in flight is {advice.flat_rule}."]


def _p99_s(advice: Advice, size: Size) -> float:
    """By the formula where that is exact, else simulated."""
    exact = advice.question.hold.exponential or size.simulated_wait_p99_s is None
    return (size.wait_p99_s if exact else size.simulated_wait_p99_s) or 0.0


def _deploy(advice: Advice) -> str:
    if advice.maxclients_share <= MUCH:
        return ""
    return ": a rolling deploy, with old and new pods at once, may exceed it"


def _sizes(advice: Advice) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("what if", no_wrap=True)
    heads = ("pool", "busy", "wait\nErlang C", "wait\nsimulated", "p99 wait\nsimulated", "p99.9")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name, size in advice.sizes.items():
        table.add_row(name, *_figures(size))
    return table


def _sizes_apart(advice: Advice) -> str:
    return "\n".join(_apart(name, size) for name, size in advice.sizes.items())


def _apart(name: str, size: Size) -> str:
    pool, busy, wait, simulated, p99, p999 = _figures(size)
    lines = [f"{name}: pool {pool}, busy {busy}", f"  wait {wait} (Erlang C)"]
    if size.simulated_wait_share is not None:
        lines += [f"  wait {simulated} (simulated)", f"  p99 wait {p99}, p99.9 {p999}"]
    return "\n".join(lines)


def _endless(name: str, size: Size) -> str:
    held = counted(size.connections, "connection")
    return (
        f"{name}: the calls in flight are {percent(size.busy_share)} of its {held}, so the queue "
        "grows for ever"
    )


def _figures(size: Size) -> list[str]:
    if not size.stable:
        busy = "> 100 %" if size.busy_share > 1 else "100 %"
        return [f"{size.connections:,}", busy, "all", *[NOT_TOLD] * 3]
    simulated = size.simulated_wait_share
    return [
        f"{size.connections:,}",
        percent(size.busy_share),
        percent(size.wait_share),
        NOT_TOLD if simulated is None else percent(simulated),
        NOT_TOLD if size.simulated_wait_p99_s is None else span(size.simulated_wait_p99_s),
        NOT_TOLD if size.simulated_wait_p999_s is None else span(size.simulated_wait_p999_s),
    ]


def _timeouts(timeouts: Timeouts, narrow: bool) -> Table | str:
    values = _set_to(timeouts)
    if narrow:
        return "\n".join(
            f"{name}: {value}\n  {escape(timeouts.reasons[name])}" for name, value in values.items()
        )
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("timeout", no_wrap=True)
    table.add_column("set to", no_wrap=True)
    table.add_column("why", max_width=WIDE)
    for name, value in values.items():
        table.add_row(name, value, escape(timeouts.reasons[name]))
    return table


def _set_to(timeouts: Timeouts) -> dict[str, str]:
    return {
        "acquire timeout": span(timeouts.acquire_timeout_s),
        "command timeout": span(timeouts.command_timeout_s),
        "connect timeout": span(timeouts.connect_timeout_s),
        "idle timeout": span(timeouts.idle_timeout_s),
        "keepalive": f"{timeouts.keepalive_idle_s}/{timeouts.keepalive_interval_s} s × "
        f"{timeouts.keepalive_probes}",
        "validation": "passive" if timeouts.passive_is_enough else "passive, PING",
        "lifetime": span(timeouts.lifetime_s),
    }
