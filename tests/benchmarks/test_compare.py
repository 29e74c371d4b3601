"""The comparison's pure parts: orders of blocks, ratios, the table. No peer is needed."""

import json
import sys

import msgspec
import pytest

from benchmarks.compare import __main__ as compare
from benchmarks.compare import rows as compare_rows
from benchmarks.compare.engines import ENGINES
from benchmarks.compare.rows import ROW, ROWS, Ratio
from benchmarks.compare.table import Run, markdown
from benchmarks.compare.works import WORKS

PEERS = ["sundog", "futures", "ray"]


def run_of(blocks: list[compare_rows.Block]) -> Run:
    return Run(
        date="2026-01-01 00:00 UTC",
        machine={"CPU": "one", "kernel": "Linux"},
        versions={"sundog": "1", "futures": "of Python 3.11", "ray": "2"},
        titles={peer: engine.title for peer, engine in ENGINES.items()},
        missing={"dask": "distributed is not installed"},
        size=compare.SIZE,
        blocks=blocks,
        loads=[0.5] * len(blocks),
    )


def test_each_peer_has_each_place_equally_often():
    orders = [compare_rows.order(PEERS, number) for number in range(6)]
    assert orders[0] == PEERS
    for place in range(len(PEERS)):
        assert sorted(order[place] for order in orders) == sorted(2 * PEERS)
    assert compare_rows.order([], 3) == []


def test_above_one_is_ahead_whether_more_or_less_is_better():
    blocks: list[compare_rows.Block] = [
        {"sundog": {"many": 300.0, "start": 0.1}, "ray": {"many": 100.0, "start": 0.5}},
        {"sundog": {"many": 200.0, "start": 0.3}, "ray": {"many": 100.0, "start": 0.6}},
        {"sundog": {"many": 100.0, "start": 0.2}, "ray": {"many": 200.0, "start": 0.2}},
    ]
    assert compare_rows.ratio(blocks, "ray", ROW["many"]) == Ratio(2.0, 0.5, 3.0)
    assert compare_rows.ratio(blocks, "ray", ROW["start"]) == Ratio(2.0, 1.0, 5.0)
    assert compare_rows.median(blocks, "sundog", "many") == 200.0


def test_a_ratio_pairs_figures_of_one_block_and_leaves_out_blocks_without():
    blocks: list[compare_rows.Block] = [
        {"sundog": {"many": 100.0}, "ray": {"many": "failed: once"}},
        {"sundog": {"many": 10.0}, "ray": {"many": 20.0}},
        {"sundog": {"many": 10.0}},
        {"sundog": {"many": 10.0}, "ray": {"many": -3.0}},
    ]
    found = compare_rows.ratio(blocks, "ray", ROW["many"])
    assert found == Ratio(0.5, 0.5, 0.5)
    assert found.behind
    assert found.sure
    assert compare_rows.ratio(blocks[:1], "ray", ROW["many"]) is None
    assert compare_rows.reason(blocks, "ray", "many") == "failed: once"


def test_another_block_starts_only_if_it_would_end_in_time():
    assert compare_rows.another([], 0, 0)  # one at least
    assert compare_rows.another([100, 200], 300, 500)
    assert not compare_rows.another([100, 200], 301, 500)


def test_every_work_has_rows_and_every_row_a_work():
    works = {work.__name__ for work in WORKS}
    assert all(compare_rows.rows_of(work) for work in works)
    assert {row.work or row.key for row in ROWS} - works == {"start", "import"}  # these come before the works
    assert len(ROW) == len(ROWS)
    assert set(compare.QUICK) == set(compare.SIZE)


def test_the_table_says_who_is_ahead_and_why_and_what_is_missing():
    blocks: list[compare_rows.Block] = [
        {
            "sundog": {"many": 30_000.0, "round_trip": 200e-6},
            "futures": {"many": 10_000.0, "round_trip": 100e-6, "chain": "cannot: no dependencies"},
            "ray": {"many": 2_000.0, "round_trip": 1e-3, "chain": "failed: late"},
        }
    ] * 3
    page = markdown(run_of(blocks), "compare.svg")
    lines = page.splitlines()
    assert "| 10,000 empty tasks, submit, then get | 30,000 /s | 10,000 /s; 3.0x | 2,000 /s; 15x |" in lines
    assert "| one empty task, submit + get, p50 | 0.20 ms | 0.10 ms; **0.50x** | 1.00 ms; 5.0x |" in lines
    assert "| dependency chain of 1,000 | - | cannot | - |" in lines
    ahead = [line for line in lines if line.startswith("- one empty task")]
    assert len(ahead) == 1
    assert "concurrent.futures: one pipe" in ahead[0]
    assert "- Dask was not measured: distributed is not installed" in lines
    assert "- concurrent.futures cannot: no dependencies." in lines
    assert "- Ray: failed: late: dependency chain of 1,000." in lines
    assert "2026-01-01 00:00 UTC, 3 blocks; tasks that wanted" in page
    assert "compare.svg" in page
    assert "a trial" in markdown(run_of(blocks[:2]))
    assert "a trial" not in page


def test_the_numbers_of_a_run_come_back_as_they_were():
    run = run_of([{"sundog": {"many": 1.5, "chain": "cannot: x"}}])
    assert msgspec.json.decode(msgspec.json.encode(run), type=Run) == run


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_machine_is_described():
    described = compare.machine()
    assert set(described) == {"CPU", "memory", "kernel", "Python"}
    assert all(described.values())
    json.dumps(described)
