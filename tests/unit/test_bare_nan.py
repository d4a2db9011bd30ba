"""What printf writes where there is no number, in JSON: only the token is replaced, whatever the bytes around it."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.pipeline.bare_nan import without_nan


@pytest.mark.parametrize(
    ("payload", "wanted"),
    [
        (b'{"a":nan}', {"a": None}),
        (b'{"a":NaN,"b":-nan}', {"a": None, "b": None}),
        (b'{"a":-nan(ind),"b":nan(snan)}', {"a": None, "b": None}),
        (b'{"a":inf,"b":-Infinity,"c":[+INF]}', {"a": "inf", "b": "-Infinity", "c": ["+INF"]}),
        (b'{"a":ovf,"b":-1.#IND,"c":1.#QNAN00,"d":-1.#INF}', {"a": "ovf", "b": None, "c": None, "d": "-1.#INF"}),
        (b'{"nan":"nan","b":"say \\"nan\\", nan","c":nan}', {"nan": "nan", "b": 'say "nan", nan', "c": None}),
    ],
)
def test_token_is_replaced_and_text_is_not(payload: bytes, wanted: object) -> None:
    assert json.loads(without_nan(payload)) == wanted


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda of: st.lists(of)))
def test_json_stays_as_it_is(document: object) -> None:
    payload = json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    assert without_nan(payload) == payload


@pytest.mark.parametrize("payload", [b'{"nanny":nanny', b"1nan", b"infer", b'{"a":nan.5}', b"nan5"])
def test_word_that_begins_alike_is_none(payload: bytes) -> None:
    assert without_nan(payload) == payload


@pytest.mark.parametrize("payload", [b'\\"' * 500_000, b'"' * 1_000_001, b"nan(" * 250_000, b'"\\' * 500_001])
def test_cost_grows_with_the_length_alone(payload: bytes) -> None:
    before = time.process_time()
    without_nan(payload)
    assert time.process_time() - before < 2
