"""Topic filters against paho's matching, and against themselves."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from bridge.model.topic_filter import covers, match, problem

levels = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4)
filters = st.lists(st.sampled_from(["a", "b", "", "+"]), min_size=1, max_size=4).flatmap(
    lambda found: st.sampled_from(["/".join(found), "/".join([*found, "#"]), "/".join([*found[:-1], "#"])])
)


@given(filters, levels)
def test_match_is_what_paho_says(filter_text: str, topic: list[str]) -> None:
    assume(problem(filter_text) is None)
    found = match(tuple(filter_text.split("/")), topic)
    assert (found is not None) == topic_matches_sub(filter_text, "/".join(topic))


@given(filters, filters, levels)
def test_covers_means_every_topic(wide: str, narrow: str, topic: list[str]) -> None:
    if covers(wide, narrow) and match(tuple(narrow.split("/")), topic) is not None and not topic[0].startswith("$"):
        assert match(tuple(wide.split("/")), topic) is not None


@pytest.mark.parametrize(
    ("wide", "narrow", "answer"),
    [
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/+", "a/b", True),
        ("a/+", "a/#", False),
        ("a/b", "a/+", False),
        ("#", "#", True),
        ("+/+", "+", False),
        ("a/b/#", "a/+/#", False),
    ],
)
def test_covers(wide: str, narrow: str, answer: bool) -> None:
    assert covers(wide, narrow) is answer


@pytest.mark.parametrize(
    ("filter_text", "topic", "captured"),
    [
        ("a/+/c", "a/b/c", ("b",)),
        ("a/#", "a/b/c", ("b", "c")),
        ("a/#", "a", ()),
        ("+/x/#", "a/x/", ("a", "")),
        ("#", "$SYS/uptime", None),
        ("a/+", "a/b/c", None),
    ],
)
def test_match_gives_what_the_wildcards_stand_for(
    filter_text: str, topic: str, captured: tuple[str, ...] | None
) -> None:
    assert match(tuple(filter_text.split("/")), topic.split("/")) == captured


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "a/b+", "$share/g/a", "a\0", "x" * 65_536])
def test_problem_of_what_is_no_filter(text: str) -> None:
    assert problem(text)
