"""What `bench size` understands, and the one line it refuses the rest with."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from test_sizing import bench

from bench.cli import main
from bench.model import PreflightError
from bench.sizing import sources
from bench.sizing.hops import HOPS
from bench.sizing.quantities import duration, rate, ratio, share, span

# ---------------------------------------------------------------------- units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10ms", 0.01), ("10 ms", 0.01), ("0.01s", 0.01), (".01s", 0.01), ("500us", 5e-4),
        ("500µs", 5e-4), ("500 μs", 5e-4), ("250ns", 2.5e-7), ("5min", 300), ("1e-3s", 1e-3),
        ("1,500ms", 1.5), ("2h", 7_200), ("1d", 86_400), ("10MS", 0.01),
        ("1 500 us", 1.5e-3), ("1_500us", 1.5e-3), ("1.500ms", 1.5e-3),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert duration("--x", text, 1e-9, 1e6) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "per_s"),
    [
        ("10000/s", 10_000), ("10k/s", 10_000), ("600000/min", 10_000), ("10,000/s", 10_000),
        ("1.5M/s", 1.5e6), ("600k/min", 10_000), ("10000 req/s", 10_000), ("5 kqps", 5_000),
        ("5rps", 5), ("36/h", 0.01), ("1e4/s", 10_000), ("10 K/s", 10_000),
        ("10_000/s", 10_000), ("10 000/s", 10_000), ("1\u202f000\u202f000 / min", 1e6 / 60),
        ("0.001/s", 0.001), ("1,234.567/s", 1234.567), ("10.0000/s", 10), ("1.5/s", 1.5),
    ],
)  # fmt: skip
def test_rates(text: str, per_s: float) -> None:
    assert rate("--x", text, 1e-3, 1e8) == pytest.approx(per_s)


def test_shares_and_factors() -> None:
    assert share("--x", "1%") == share("--x", "0.01") == share("--x", "1 %") == 0.01
    assert ratio("--x", "3", 10) == ratio("--x", "3x", 10) == ratio("--x", "3 ×", 10) == 3


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.001, "1 ms"),
        (300, "5 min"),
        (90, "90 s"),
        (86_400, "1 d"),
        (0, "0 s"),
        (0.0105, "10.5 ms"),
    ],
)
def test_spans_as_people_read_them(seconds: float, said: str) -> None:
    assert span(seconds) == said


# ---------------------------------------------------------------------- refusals

OK = ("--rate", "100/s", "--latency", "1ms")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rate", "10", "--latency", "1ms"), "10 has no unit: write 10/s"),
        (("--rate", "10k", "--latency", "1ms"), "no unit"),
        (("--rate", "10ms", "--latency", "1ms"), "no unit of a rate"),
        (("--rate", "0/s", "--latency", "1ms"), "between 0.001/s and 100,000,000/s"),
        (("--rate", "-5/s", "--latency", "1ms"), "must lie between"),
        (("--rate", "1000000000/s", "--latency", "1ms"), "must lie between"),
        (("--rate", "nan/s", "--latency", "1ms"), "must lie between"),
        (("--rate", "inf/s", "--latency", "1ms"), "must lie between"),
        (("--rate", "10.000/s", "--latency", "1ms"), "write 10/s or 10000/s"),
        (("--rate", "1.500 k/s", "--latency", "1ms"), "write 1.5k/s or 1500k/s"),
        ((*OK, "--peak", "1.000.000/s"), "is not a rate"),
        (("--rate", "1_00/s", "--latency", "1ms"), "is not a rate"),
        (("--rate", "10\n/x", "--latency", "1ms"), "10\\n/x"),
        (("--rate", "9" * 90, "--latency", "1ms"), "9" * 39 + "…"),
        (("--rate", "10/y", "--latency", "1ms"), "write /s, k/s, M/s, /min, /h, rps or qps"),
        (("--rate", "10\n/s", "--latency", "1ms", "--peak", "1/s"), "below --rate 10\\n/s"),
        (("--rate", "fast", "--latency", "1ms"), "not a rate such as"),
        (("--latency", "1ms"), "--rate"),
        (("--rate", "10/s"), "no latency: give one of --latency"),
        (("--rate", "10/s", "--latency", "10"), "10 has no unit: write 10ms or 10s"),
        (("--rate", "10/s", "--latency", "0ms"), "between 1 µs and 1 min"),
        (("--rate", "10/s", "--latency", "-1ms"), "must lie between"),
        (("--rate", "10/s", "--latency", "365d"), "must lie between"),
        (("--rate", "10/s", "--latency", "nan s"), "must lie between"),
        (("--rate", "10/s", "--latency", "1e999s"), "must lie between"),
        (("--rate", "10/s", "--latency", "5m"), "“m” is no unit of time"),
        (("--rate", "10/s", "--latency", "1,5ms"), "a decimal point is a dot"),
        (("--rate", "10/s", "--p50", "5ms", "--p99", "1ms"), "--p99 1 ms is below --p50 5 ms"),
        (("--rate", "10/s", "--p50", "1us", "--p99", "1s"), "give --samples"),
        (("--rate", "10/s", "--p50", "60s", "--p99", "60min"), "--p99 60min"),
        (("--rate", "10/s", "--p50", "5ms"), "--p99 is missing"),
        (("--rate", "10/s", "--p99", "5ms"), "--p50 is missing"),
        ((*OK, "--p50", "1ms"), "--latency is the mean"),
        ((*OK, "--p50", "1ms", "--p99", "50ms"), "contradicts --p50 1ms and --p99 50ms"),
        ((*OK, "--live"), "leave one of them out"),
        ((*OK, "--samples", "x.csv"), "--latency and --samples both"),
        ((*OK, "--samples-unit", "ms"), "goes with --samples"),
        (("--rate", "10/s", "--live"), "REDIS_URL"),
        ((*OK, "--peak", "10/s"), "below --rate"),
        ((*OK, "--peak", "200/s", "--burst", "3"), "contradicts --burst 3"),
        ((*OK, "--burst", "0.5"), "must lie between 1 and 10,000"),
        ((*OK, "--burst", "3s"), "no part of a factor"),
        ((*OK, "--pods", "0"), "--pods is 0"),
        ((*OK, "--pods", "1000000"), "must lie between"),
        ((*OK, "--pods", "many"), "--pods"),
        ((*OK, "--wait-share", "0"), "between 0 and 1"),
        ((*OK, "--wait-share", "100%"), "between 0 and 1"),
        ((*OK, "--wait-share", "5"), "between 0 and 1"),
        ((*OK, "--wait-share", "1ms"), "no unit of a share"),
        ((*OK, "--wait-p99", "1"), "no unit"),
        ((*OK, "--wait-p99", "0ms"), "must lie between"),
        ((*OK, "--idle-timeout", "1s"), "between 5 s and 30 d"),
        ((*OK, "--idle-timeout", "350"), "no unit"),
        ((*OK, "--idle-timeout", "aws-nbl"), "did you mean “aws-nlb”"),
        ((*OK, "--idle-timeout", "moon"), "there is: aws-nlb"),
        ((*OK, "--idle-timeout", ""), "no hop “”"),
        ((*OK, "--idle-timeout", "haproxy=1"), "no unit"),
        ((*OK, "--idle-timeout", "haproxy="), "haproxy= has no time: write haproxy=5min"),
        ((*OK, "--idle-timeout", "ec2,haproxy=1s"), "haproxy set to 1s: it must lie"),
        ((*OK, "--idle-timeout", "a\nb"), "no hop “a\\nb”"),
        ((*OK, "--client", "a\nb"), "no client “a\\nb”"),
        (("--rate", "10/s", "--samples", ""), "--samples is empty"),
        (("--rate", "10/s", "--run", ""), "--run is empty"),
        (("--rate", "10/s", "--run", "no\nrun"), "--run no\\nrun does not exist"),
        (("--rate", "10/s", "--samples", "a\nb.csv"), "--samples a\\nb.csv does not exist"),
        (("--rate", "10/s", "--samples", "tests"), "is a folder: name a .hlog or a .csv in it"),
        (("--rate", "10/s", "--live"), "REDIS_URL=redis://127.0.0.1:6379 bench size --live"),
        ((*OK, "--client", "jedi"), "did you mean “jedis”"),
        ((*OK, "--client", "zzz"), "there is: redis-py"),
        ((*OK, "--client", ","), "names no client"),
        ((*OK, "--maxclients", "0"), "--maxclients is 0"),
        (("--rate", "10M/s", "--latency", "10ms"), "queue grows for ever"),
        (("--rate", "10/s", "--run", "/nonexistent"), "does not exist"),
        (("--rate", "10/s", "--samples", "/nonexistent.csv"), "does not exist"),
        (("--rate", "10/s", "--samples", "/dev/null"), "is no regular file: save"),
        ((*OK, "--samples", "a", "--run", "b"), "both"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_status_2(
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(sys, "argv", ["bench", "size", *arguments])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), write_through=True))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), write_through=True))
    status = main()
    told, complained = (stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))
    assert (status, told) == (2, "")
    assert complained.startswith("bench: ")
    assert complained.count("\n") == 1
    assert said in complained


def test_a_refusal_is_json_too_where_json_was_asked_for() -> None:
    done = bench("--rate", "10", "--latency", "1ms", "--json")
    assert done.returncode == 2
    assert f"bench: {json.loads(done.stdout)['error']}\n" == done.stderr


def test_a_mean_that_agrees_with_the_percentiles_is_let_in() -> None:
    done = bench("--rate", "10/s", "--latency", "2.5ms", "--p50", "2ms", "--p99", "9ms", "--json")
    assert done.returncode == 0
    assert "lognormal" in json.loads(done.stdout)["question"]["latency"]


def test_every_hop_is_understood_by_name() -> None:
    from bench.sizing.hops import path

    for name, hop in HOPS.items():
        assert path("--idle-timeout", name.upper()) == hop


# ---------------------------------------------------------------------- files of samples


def hlog(file: Path, logged: dict[str, list[int]], header: bool = True) -> Path:
    """A log as HdrHistogram's tools write it; the tag "" means none."""
    lines = ["#[Histogram log format version 1.3]"] if header else []
    for tag, values in logged.items():
        histogram = HdrHistogram(1, 60_000_000, 3)
        for value in values:
            histogram.record_value(value)
        tagged = f"Tag={tag}," if tag else ""
        lines.append(f"{tagged}0.000,1.000,0.001,{histogram.encode().decode()}")
    file.write_text("\n".join([*lines, ""]))
    return file


def test_a_histogram_log_counts_whole_microseconds(tmp_path: Path) -> None:
    found = sources.from_file(hlog(tmp_path / "x.hlog", {"": [1000] * 900 + [9000] * 100}), None)
    assert found.mean_s == pytest.approx(1.8e-3, rel=2e-3)
    assert found.p50_s == pytest.approx(1e-3, rel=2e-3)
    assert found.p99_s == pytest.approx(9e-3, rel=2e-3)
    assert "1,000 samples" in found.source
    other = sources.from_file(tmp_path / "x.hlog", "ns")
    assert other.mean_s == pytest.approx(1.8e-6, rel=2e-3)


def test_of_our_own_log_the_hold_times_are_taken(tmp_path: Path) -> None:
    logged = {"latency": [5000] * 50, "command": [1000] * 50, "acquire": [1] * 50}
    found = sources.from_file(hlog(tmp_path / "ours.hlog", logged), None)
    assert found.mean_s == pytest.approx(1e-3, rel=2e-3)


def test_intervals_of_one_log_add_up(tmp_path: Path) -> None:
    first = hlog(tmp_path / "a.hlog", {"": [1000] * 50}).read_text()
    second = hlog(tmp_path / "b.hlog", {"": [3000] * 50}, header=False).read_text()
    (tmp_path / "both.hlog").write_text(first + second)
    found = sources.from_file(tmp_path / "both.hlog", None)
    assert found.mean_s == pytest.approx(2e-3, rel=2e-3)


@pytest.mark.parametrize(
    ("text", "unit", "mean_s"),
    [
        ("latency_ms\n" + "2\n" * 30, None, 2e-3),
        ("time,latency_us,ok\n" + "1,2000,yes\n" * 30, None, 2e-3),
        ("latency_s\n" + "0.002\n" * 30, None, 2e-3),
        ("2000\n" * 30, "us", 2e-3),
        ("latency\n" + "2\n" * 30, "ms", 2e-3),
        ("\ufefflatency_ms\r\n" + "2\r\n" * 30, None, 2e-3),
        ("latency_ms\n\n" + "2\n\n" * 30, None, 2e-3),
    ],
)
def test_a_csv_of_samples(tmp_path: Path, text: str, unit: str | None, mean_s: float) -> None:
    file = tmp_path / "samples.csv"
    file.write_text(text)
    found = sources.from_file(file, unit)
    assert found.mean_s == pytest.approx(mean_s)
    assert any("30 samples are few" in said for said in found.doubts)


def test_samples_are_drawn_from(tmp_path: Path) -> None:
    file = tmp_path / "samples.csv"
    values = np.random.default_rng(1).exponential(2.0, 20_000)
    file.write_text("latency_ms\n" + "\n".join(map(str, values)))
    found = sources.from_file(file, None)
    assert not found.doubts
    assert found.p99_s == pytest.approx(np.quantile(values, 0.99) / 1e3, rel=0.01)
    drawn = found.draw(100_000, np.random.default_rng(2))
    assert drawn.mean() == pytest.approx(found.mean_s, rel=0.02)


@pytest.mark.parametrize(
    ("name", "content", "unit", "said"),
    [
        ("a.csv", b"", None, "is empty"),
        ("a.csv", b"  \n\n", None, "is empty"),
        ("a.csv", b"latency_ms\n", None, "nothing below its header"),
        ("a.csv", b"1\n2\n", None, "have no unit"),
        ("a.csv", b"latency\n1\n", None, "have no unit"),
        ("a.csv", b"1,2\n3,4\n", "ms", "2 columns and no header"),
        ("a.csv", b"a_ms,b_ms\n1,2\n", None, "a_ms, b_ms"),
        ("a.csv", b"a,b\n1,2\n", None, "found: none"),
        ("a.csv", b"latency_ms\n1\nfast\n", None, "line 3: “fast”"),
        ("a.csv", b"latency_ms\n1\n-1\n", None, "line 3"),
        ("a.csv", b"latency_ms\n1\nnan\n", None, "line 3"),
        ("a.csv", b"latency_ms\n1\ninf\n", None, "line 3"),
        ("a.csv", b"x,latency_ms\n1,2\n1\n", None, "line 3"),
        ("a.csv", b"latency_ms\n" + b"1\n" * 19, None, "19 samples are too few"),
        ("a.csv", b"latency_ms\n" + b"1\n", None, "1 sample is too few"),
        ("a.csv", b"latency_s\n" + b"1000\n" * 30, None, "line 2: “1000” is more than 1 min"),
        ("a.csv", b"latency_s\n\n1\n1e308\n" * 30, None, "line 4: “1e308” is more than 1 min"),
        ("a.csv", b"latency_ms\n\n1\n\n\nfast\n", None, "line 6: “fast”"),
        ("a.csv", b"latency_ms\n1\n" + b"1" * 140_000, None, "line 3: not a CSV of latencies"),
        ("a.csv", b'latency_ms\n1\n"2\n3\n', None, "line 3: not a CSV of latencies"),
        ("a.csv", b"latency_ms\n1,5\n", None, "line 2: 2 columns, and 1 in the first line"),
        ("a.csv", b"time;latency_ms\n1;2\n", None, "parted by “;”: part them by commas"),
        ("a.csv", b"time\tlatency_ms\n1\t2\n", None, "parted by tabs"),
        ("a.csv", "latency_µs\n1\n".encode("latin-1"), None, "save it as UTF-8"),
        ("a.csv", "latency_ms\n1\n".encode("utf-16"), None, "save it as UTF-8"),
        ("a.csv", "latency_ms\n1\n".encode("utf-16-le"), None, "save it as UTF-8"),
        ("a.csv", b"latency_ms\n1\na\x1b[1m\n", None, "“a\\x1b[1m”"),
        ("a.csv", b"latency_s\n" + b"0\n" * 30, None, "the mean is 0 s and must lie"),
        ("a.csv", b"latency_ms\n" + b"1\n" * 30, "furlong", "there is: ns"),
        ("a.csv", b"\xff\xfe\x00\x81", None, "not UTF-8: save it as UTF-8"),
        ("a.hlog", b"", None, "is empty"),
        ("a.hlog", b"#[Histogram log format version 1.3]\n", None, "no histogram"),
        ("a.hlog", b"Tag=command,0,1,1,HISTFAAAAnonsense\n", None, "is damaged"),
        ("a.hlog", b"0,1,1,\n", None, "is damaged"),
    ],
)
def test_a_file_that_holds_no_samples(
    tmp_path: Path, name: str, content: bytes, unit: str | None, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(PreflightError) as refusal:
        sources.from_file(file, unit)
    assert said in str(refusal.value)
    assert str(refusal.value).startswith("--samples")
    assert "\n" not in str(refusal.value)


def test_a_log_without_counts_or_with_tags_of_others(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="counts nothing"):
        sources.from_file(hlog(tmp_path / "x.hlog", {"": []}), None)
    with pytest.raises(PreflightError, match="read, write, and none called command"):
        sources.from_file(hlog(tmp_path / "x.hlog", {"read": [1] * 30, "write": [1] * 30}), None)
    (tmp_path / "cut.hlog").write_text(
        hlog(tmp_path / "y.hlog", {"command": list(range(1, 3000))}).read_text()[:-90]
    )
    with pytest.raises(PreflightError, match="damaged"):
        sources.from_file(tmp_path / "cut.hlog", None)


def test_a_histogram_log_far_beyond_any_latency_is_told_briefly(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"--samples .*the mean is more than 1,000,000 s and"):
        sources.from_file(hlog(tmp_path / "x.hlog", {"": [5_000_000] * 30}), "s")


def test_a_pipe_is_asked_for_as_a_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PreflightError, match="is no regular file: save what it gives"):
        sources.from_file(tmp_path / "pipe", None)


def test_open_cells_stand_in_where_a_run_has_no_closed_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bench.store

    whole = bench.store.load_cells
    monkeypatch.setattr(bench.store, "load_cells", lambda run: whole(run).query("loop == 'open'"))
    found = sources.from_run(Path("results/reference"))
    assert "(open loop, " in found.source
    assert 1e-5 < found.p50_s < found.p99_s < 0.1


def test_a_run_whose_pools_all_ran_empty_is_told_what_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bench.store

    whole = bench.store.load_cells
    only = "loop == 'open' and pool_empty_share > 0"
    monkeypatch.setattr(bench.store, "load_cells", lambda run: whole(run).query(only))
    with pytest.raises(PreflightError, match=r"^--run results/reference .*ONLY=pool_sweep"):
        sources.from_run(Path("results/reference"))


def test_a_run_without_a_fitting_cell(tmp_path: Path) -> None:
    from bench.model import Settings
    from bench.store import Store

    Store.create_in(tmp_path, Settings(profile="smoke")).close()
    with pytest.raises(PreflightError, match="no finished cell"):
        sources.from_run(next(tmp_path.iterdir()))
