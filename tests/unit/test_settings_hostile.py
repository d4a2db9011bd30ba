"""Whatever stands in the settings: it is taken and can be run with, or there is one line for it that names the key.

The walk is over the models themselves, so that a setting that is added is walked, too.
"""

from __future__ import annotations

import math
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bridge.cli import sensor_map
from bridge.errors import ConfigError
from bridge.settings.service import Settings, load
from bridge.settings.sources import keys
from bridge.settings.toml import MAX_DEPTH, MAX_KEY_PARTS
from edge.settings import EdgeSettings
from edge.settings import load as load_edge

NUMBERS = ("inf", "-inf", "nan", "1e308", "-1e308", "9223372036854775808", "-9223372036854775809", "-1", "0", "-0.0")
LONG = "x" * 1_000_000
TEXTS = (LONG, r"\u0000", r"a\u001b[31mb", r"\u202e", r"a\nb: c", "%s%n{0}", "[", "ü" * 300)


class Walked(NamedTuple):
    """A key of a model, and how it is loaded."""

    model: type[Any]
    load: Callable[[Path | None], Any]
    key: str
    field: FieldInfo


def _section(model: type[Any], name: str) -> Any:
    return model.model_fields[name].annotation


def _walk() -> Iterator[Any]:
    for name, model, loads in (("service", Settings, load), ("edge", EdgeSettings, load_edge)):
        for key, field in keys(model).items():
            section = key.partition(".")[0]
            if (
                name == "edge"
                and section in Settings.model_fields
                and _section(model, section) is _section(Settings, section)
            ):
                continue  # the same class
            yield pytest.param(Walked(model, loads, key, field), id=f"{name}-{key}")


def _kinds(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


def _of(*kinds: type) -> list[Any]:
    return [one for one in _walk() if any(kind in kinds for kind in _kinds(one.values[0].field.annotation))]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(("IOT_BRIDGE_", "IOT_EDGE_"))]:
        monkeypatch.delenv(name)


def outcome(walked: Walked, path: Path | None) -> Any:
    """The settings, or the lines of what is wrong with them; anything else is a fault."""
    try:
        return walked.load(path)
    except ConfigError as error:
        problems = error.problems
    assert problems
    for line in problems:
        assert line.isprintable(), line[:200]
        assert len(line) < 1_000
    return problems


def written(path: Path, walked: Walked, value: str) -> Path:
    section, _, key = walked.key.partition(".")
    path.write_text(f"[{section}]\n{key} = {value}\n")
    return path


def _value(settings: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


@pytest.mark.parametrize("walked", _of(int, float))
def test_every_number(walked: Walked, tmp_path: Path) -> None:
    is_table = get_origin(walked.field.annotation) is dict
    for number in NUMBERS:
        found = outcome(
            walked, written(tmp_path / "f", walked, f'{{"x" = [{number}, {number}]}}' if is_table else number)
        )
        if isinstance(found, list):
            assert any(walked.key in line for line in found), (number, found)
            continue
        taken = _value(found, walked.key)
        numbers = [one for pair in taken.values() for one in pair] if is_table else [taken]
        assert all(math.isfinite(one) for one in numbers if one is not None), number
        assert is_table or number in ("0", "-0.0", "-1"), f"{walked.key} takes {number}: it has no bound"


@pytest.mark.parametrize("walked", _of(int, float))
def test_every_number_of_5000_digits(walked: Walked, tmp_path: Path) -> None:
    (line,) = outcome(walked, written(tmp_path / "f", walked, "9" * 5_000))
    assert f"line 2, {walked.key.partition('.')[2]}: a number or key has more than 128 characters" in line


@pytest.mark.parametrize("walked", _of(str, Path))
def test_every_text(walked: Walked, tmp_path: Path) -> None:
    is_list = get_origin(walked.field.annotation) is tuple
    is_table = get_origin(walked.field.annotation) is dict
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in _kinds(walked.field.annotation)):
        pytest.skip("a list of tables: below")
    for text in TEXTS:
        value = f'["{text}"]' if is_list else f'{{"{text}" = ["a"]}}' if is_table else f'"{text}"'
        found = outcome(walked, written(tmp_path / "f", walked, value))
        if isinstance(found, list):
            assert any(walked.key in line for line in found), (text[:20], found)
        else:
            assert text in TEXTS[5:], f"{walked.key} takes {text[:20]!r}"


@pytest.mark.parametrize("walked", list(_walk()))
def test_every_variable(walked: Walked, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = str(walked.model.model_config["env_prefix"])
    name = f"{prefix}{walked.key.replace('.', '__').upper()}"
    for value in (
        "inf",
        "nan",
        "1e308",
        "9" * 5_000,
        "[" * 50_000,
        '{"a":' * 30_000,
        "\udcff\x1b",
        "[NaN]",
        "x" * 120_000,
    ):
        monkeypatch.setenv(name, value)
        found = outcome(walked, None)
        if isinstance(found, list):
            assert any(name in line or walked.key in line for line in found), (value[:20], found)


TABLES = {
    "mqtt.converters": """[[mqtt.converters]]
filter = "a"
format = "mapping"
device = "a"
sensor = "a"
value = "a"
""",
    "notifier.channels": """[[notifier.channels]]
name = "a"
webhook = "https://h"
secret = "s"
""",
    "notifier.rules": """[[notifier.channels]]
name = "a"
url = "json://h"
[[notifier.rules]]
name = "a"
channels = ["a"]
""",
}


@pytest.mark.parametrize("key", TABLES)
def test_every_key_of_the_tables_in_lists(key: str, tmp_path: Path) -> None:
    field = keys(Settings)[key]
    (model, *_) = get_args(field.annotation)
    walked = Walked(Settings, load, key, field)
    (tmp_path / "f").write_text(TABLES[key])
    assert isinstance(outcome(walked, tmp_path / "f"), Settings)
    for name in model.model_fields:
        others = "".join(line for line in TABLES[key].splitlines(True) if not line.startswith(f"{name} ="))
        for value in [*NUMBERS[:8], *(f'"{text}"' for text in TEXTS[:4]), *(f'["{text}"]' for text in TEXTS[:4])]:
            (tmp_path / "f").write_text(f"{others}{name} = {value}\n")
            found = outcome(walked, tmp_path / "f")
            assert isinstance(found, list) or value in ("-1", "0"), f"{key}.{name} takes {value[:20]}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 500_000, f"line 1, a: is nested more than {MAX_DEPTH} deep"),
        ("a = " + "{a = " * 100_000, f"line 1, a: is nested more than {MAX_DEPTH} deep"),
        ("[http]\n" + "a." * 20_000 + "b = 1", f"line 2: a key has more than {MAX_KEY_PARTS} parts"),
        ("[" + "a." * 20_000 + "b]", f"line 1: a key has more than {MAX_KEY_PARTS} parts"),
        ("[" + '"a".' * 20_000 + "b]", f"line 1: a key has more than {MAX_KEY_PARTS} parts"),
        ("a = {" + "b . " * 20_000 + "c = 1}", f"a key has more than {MAX_KEY_PARTS} parts"),
        ("[http]\nport = 0x" + "f" * 5_000, "line 2, port: a number or key has more than 128 characters"),
        ("x" * 500_000 + " = 1", "a number or key has more than 128 characters"),
        ('a = "' + '\\"' * 400_000, "not TOML"),
        ('a = """' + '"" ' * 300_000, "not TOML"),
        ("a = '''" + "'' " * 300_000, "not TOML"),
        ('"' * 1_000_000, "not TOML"),
        ("# " + "x" * 1_048_576, "is larger than 1,048,576 bytes"),
        ('[http]\n"\\u001b[31m" = 1', r"http.\x1b[31m: unknown key"),
        ('["\\u001b[31m"]\na = 1', r"\x1b[31m: unknown key"),
        ("[http]\nport = {a.b.c.d.e.f.g = 1}", "http.port"),
        ("\x00", "not TOML"),
    ],
)
def test_files_that_take_time_or_memory(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f").write_text(text)
    walked = Walked(Settings, load, "", FieldInfo())
    tracemalloc.start()
    started_s = time.process_time()
    found = outcome(walked, tmp_path / "f")
    assert time.process_time() - started_s < 30  # tracing allocations takes most of it
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 1024 * 1024
    assert len(found) == 1
    assert said in found[0]


def test_what_is_in_a_text_or_a_comment_is_not_counted(tmp_path: Path) -> None:
    dots, brackets = "a." * 40, "[" * 40
    (tmp_path / "f").write_text(
        f'# {dots} {brackets}\n[log]\n[mqtt]\nusername = "{dots}{brackets}\\"{brackets}"\n'
        f"password = '{dots}{brackets}'\n"
        f'[[notifier.channels]]\nname = "a"\nurl = "json://h"\n'
        f'[[notifier.rules]]\nname = "r"\nchannels = ["a"]\nbody = """{dots}\n""{brackets}""""\n'
    )
    settings = load(tmp_path / "f")
    assert settings.mqtt.username == f'{dots}{brackets}"{brackets}'
    assert settings.notifier.rules[0].body == f'{dots}\n""{brackets}"'


@pytest.mark.parametrize(
    "expression",
    ["!" * 4_000 + "a", "a" + "|a" * 2_000, "(" * 1_500 + "a" + ")" * 1_500, "[" * 1_500 + "a" + "]" * 1_500],
)
def test_expressions_that_are_nested(expression: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(TABLES["mqtt.converters"].replace('value = "a"', f'value = "{expression}"'))
    with pytest.raises(ConfigError, match=r"value is not JMESPath: it is nested more than 64 deep") as caught:
        load(tmp_path / "f")
    assert caught.value.problems[0].startswith("mqtt.converters.0")


def test_an_expression_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(TABLES["mqtt.converters"].replace('value = "a"', 'value = """a\n  | b"""'))
    assert load(tmp_path / "f").mqtt.converters[0].value == "a\n  | b"


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("read", [load, load_edge, sensor_map.read])
def test_files_that_are_none(read: Callable[[Path], Any], tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for, a device has no end."""
    (tmp_path / "folder").mkdir()
    for path, said in (
        (_fifo(tmp_path / "fifo"), "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "none", "No such file"),
        (tmp_path / ("n" * 300), "File name too long"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            read(path)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTP__HOST", "a" * 300, "no name that can be looked up"),
        ("REDIS__URL", "redis://u:geheim@h:99999", "a port from 1 to 65535"),
        ("REDIS__URL", "redis://u:geheim@h/0?nonsense=1", "nonsense"),
        ("REDIS__URL", "redis://u:geheim@h/0?db=x", "Invalid value for 'db'"),
        ("DATABASE__URL", "postgresql://u:geheim@h/d?nonsense=1", "invalid URI query parameter"),
        ("DATABASE__URL", "postgresql://u:geheim@[::1", "in URI"),
        ("EXPLAIN__URL", "https://[::1", "no URL with a host"),
        ("EMQX__URL", "http://h:0", "no URL with a host"),
    ],
)
def test_addresses_that_a_service_could_not_begin_with(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"IOT_BRIDGE_{variable}", value)
    with pytest.raises(ConfigError, match=said) as caught:
        load(None)
    (line,) = caught.value.problems
    assert f"IOT_BRIDGE_{variable} = " in line
    assert "geheim" not in line


def test_addresses_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_BRIDGE_DATABASE__URL", "postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=any")
    for url in ("unix:///run/redis.sock?db=0", "rediss://u:p@[::1]:6379/0", "redis://h"):
        monkeypatch.setenv("IOT_BRIDGE_REDIS__URL", url)
        assert load(None).redis.url == url


@pytest.mark.parametrize(
    "key", ["PIPELINE__LIMITS", "HTTP", "HTTP__PORT", "NOTIFIER__GROUPS", "MQTT__TOPICS", "MQTT__CONVERTERS", "NONE"]
)
@pytest.mark.parametrize("parts", [200, 20_000])
def test_variables_of_many_parts(key: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"IOT_BRIDGE_{key}" + "__A" * parts, "1")
    for line in outcome(Walked(Settings, load, "", FieldInfo()), None):
        assert key in line or key.lower().replace("__", ".") in line
