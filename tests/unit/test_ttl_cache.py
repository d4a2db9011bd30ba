"""The TTL cache: forgets in time, is bounded, and the oldest makes room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.model.ttl_cache import TtlCache

SIZE = 3
TTL_S = 10.0


def filled(*keys: str, size: int = SIZE) -> TtlCache[str, str]:
    """A cache into which the keys were put one second apart, the first at 0."""
    cache: TtlCache[str, str] = TtlCache(size, TTL_S)
    for second, key in enumerate(keys):
        cache.put(key, key.upper(), float(second))
    return cache


def kept(cache: TtlCache[str, str], now_s: float, keys: str = "abcd") -> str:
    return "".join(key for key in keys if cache.get(key, now_s) is not None)


def test_value_is_kept_for_its_time_and_not_at_its_end() -> None:
    cache = filled("a")
    assert cache.get("a", 0.0) == "A"
    assert cache.get("a", 9.999) == "A"
    assert cache.get("a", 10.0) is None
    assert cache.get("b", 0.0) is None


def test_value_put_again_lives_from_then_on() -> None:
    cache = filled("a")
    cache.put("a", "new", 9.0)
    assert cache.get("a", 18.9) == "new"
    assert len(cache) == 1


def test_oldest_makes_room_though_it_was_looked_up_last() -> None:
    cache = filled("a", "b", "c")
    cache.get("a", 3.0)
    cache.put("d", "D", 3.0)
    assert kept(cache, 3.0) == "bcd"
    assert len(cache) == SIZE


def test_key_put_again_pushes_no_other_out_and_is_the_newest() -> None:
    cache = filled("a", "b", "c", "a")
    assert kept(cache, 3.0) == "abc"
    cache.put("d", "D", 4.0)
    assert kept(cache, 4.0) == "acd"


def test_false_is_a_value() -> None:
    cache: TtlCache[str, bool] = TtlCache(SIZE, TTL_S)
    cache.put("a", False, 0.0)
    assert cache.get("a", 1.0) is False


def test_keys_are_forgotten_by_name_by_condition_and_all() -> None:
    cache = filled("a", "b", "c")
    cache.discard("a")
    cache.discard("never kept")
    assert kept(cache, 3.0) == "bc"
    cache.discard_where(lambda value: value == "C")
    assert kept(cache, 3.0) == "b"
    cache.clear()
    assert (kept(cache, 3.0), len(cache)) == ("", 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.floats(0, 8)), max_size=60), st.integers(1, 5))
def test_last_value_put_is_kept_until_its_time_is_over_or_newer_ones_need_its_place(
    puts: list[tuple[int, float]], size: int
) -> None:
    cache: TtlCache[int, int] = TtlCache(size, TTL_S)
    last: dict[int, tuple[float, int]] = {}
    now_s = 0.0
    for number, (key, later_s) in enumerate(puts):
        now_s += later_s
        cache.put(key, number, now_s)
        last.pop(key, None)
        last[key] = (now_s, number)
        newest = list(last)[-size:]
        for each, (put_s, value) in last.items():
            is_kept = each in newest and now_s < put_s + TTL_S
            assert cache.get(each, now_s) == (value if is_kept else None)
        assert len(cache) == len(newest)
