"""An answer that anybody may ask for is made once for all who ask within a moment."""

from __future__ import annotations

import pytest

from bridge.http.rendered_answer import RenderedAnswer


@pytest.mark.parametrize(("cost_s", "kept_s"), [(0.002, 0.04), (0.5, 1.0)])
def test_answer_is_kept_in_proportion_to_its_cost(cost_s: float, kept_s: float) -> None:
    now_s, made = 100.0, 0

    def render() -> bytes:
        nonlocal now_s, made
        now_s += cost_s
        made += 1
        return b"%d" % made

    answer = RenderedAnswer(render, lambda: now_s)
    assert answer.body() == b"1"
    now_s += kept_s - 0.001
    assert answer.body() == b"1"
    now_s += 0.002
    assert answer.body() == b"2"
