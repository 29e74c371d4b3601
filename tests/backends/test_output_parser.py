"""Output with markers, cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sundog.backends.local_processes.output_parser import LINE_BYTES_MAX, OutputParser, marker


def joined(pieces: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return neighbours of one name as one, for what was cut differently says the same."""
    result: list[tuple[str, str]] = []
    for name, text in pieces:
        if result and result[-1][0] == name:
            result[-1] = (name, result[-1][1] + text)
        else:
            result.append((name, text))
    return result


def test_lines_go_out_whole() -> None:
    parser = OutputParser()
    assert parser.feed(b"one\ntw") == [("", "one\n")]
    assert parser.feed(b"o\n") == [("", "two\n")]
    assert parser.flush() == []


def test_a_task_owns_what_follows_its_marker_and_its_end_brings_out_the_rest() -> None:
    parser = OutputParser()
    assert parser.feed(b"before\n" + marker("f") + b"a\nb") == [("", "before\n"), ("f", "a\n")]
    assert parser.feed(marker("") + b"after\n") == [("f", "b"), ("", "after\n")]


def test_a_character_cut_in_two_is_whole_again() -> None:
    parser = OutputParser()
    data = "é\n".encode()
    assert parser.feed(data[:1]) == []
    assert parser.feed(data[1:]) == [("", "é\n")]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert OutputParser().feed(b"\xff\n") == [("", "�\n")]


def test_escapes_that_are_no_markers_pass() -> None:
    parser = OutputParser()
    assert parser.feed(b"\x1b[31mred\x1b[0m\n") == [("", "\x1b[31mred\x1b[0m\n")]
    assert parser.feed(b"\x1b") == []
    assert parser.flush() == [("", "\x1b")]


def test_a_marker_that_never_ends_is_text() -> None:
    data = b"\x1b]sundog;" + b"x" * 1000 + b"\n"
    parser = OutputParser()
    assert joined(parser.feed(data) + parser.flush()) == [("", data.decode())]


def test_an_endless_line_goes_out_in_pieces() -> None:
    parser = OutputParser()
    assert parser.feed(b"x" * (LINE_BYTES_MAX + 1)) == [("", "x" * (LINE_BYTES_MAX + 1))]


def test_an_unfinished_line_outside_tasks_can_be_brought_out() -> None:
    parser = OutputParser()
    parser.feed(b"from C")
    assert parser.unnamed_rest is True
    assert parser.flush_unnamed() == [("", "from C")]
    parser.feed(marker("f") + b"from f")
    assert parser.flush_unnamed() == []


def test_a_name_cannot_end_its_marker() -> None:
    assert OutputParser().feed(marker("a\x07b") + b"x\n") == [("a?b", "x\n")]


_part = st.one_of(
    st.sampled_from([b"\x1b", b"\x1b]", b"\x1b]sundog", b"\x07", b"\n", b"text\n", "é".encode(), b"\x1b]sundog;" + b"y" * 600]),
    st.sampled_from(["f", "g", ""]).map(marker),
    st.binary(max_size=5),
)


@given(st.lists(_part, max_size=20).map(b"".join), st.lists(st.integers(1, 40), max_size=30))
def test_where_it_is_cut_changes_nothing(data: bytes, cuts: list[int]) -> None:
    whole = OutputParser()
    expected = joined(whole.feed(data) + whole.flush())
    parser = OutputParser()
    pieces = []
    position = 0
    for cut in cuts:
        pieces += parser.feed(data[position : position + cut])
        position += cut
    pieces += parser.feed(data[position:]) + parser.flush()
    assert joined(pieces) == expected
