"""Where settings come from: a TOML file, then `<PREFIX><SECTION>__<KEY>` from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from bridge.errors import ConfigError
from bridge.settings import problems
from bridge.settings.toml import load_toml


class _Environment(EnvSettingsSource):
    """Variables, read leniently: what is not JSON goes on as text, to be reported with every other mistake."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """A list may also be written with commas: `IOT_BRIDGE_MQTT__TOPICS=a,b`."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except (ValueError, RecursionError):
            is_list = isinstance(field, FieldInfo) and get_origin(field.annotation) is tuple
            return [part.strip() for part in value.split(",")] if is_list else value


class SectionedSettings(BaseSettings):
    """Sections of keys, from a file and the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file (which `load` passes as init values)."""
        return _Environment(settings_cls), init_settings


S = TypeVar("S", bound=BaseSettings)


def read(model: type[S], path: Path | None, *more: tuple[str, str]) -> S:
    """`load` for any settings made of sections. `more`: ("section.key", value) that win over the file."""
    data: dict[str, Any] = {}
    if path is not None:
        data = load_toml(path)
    for name, value in more:
        section, _, key = name.partition(".")
        data[section] = {**data.get(section, {}), key: value}
    prefix = str(model.model_config.get("env_prefix"))
    fields = keys(model)
    found = problems.unknown_variables(os.environ, prefix, fields)
    settings: S | None = None
    try:
        settings = model(**data)
    except ValidationError as error:
        variables = problems.variables_of(os.environ, prefix)
        found += problems.describe(error.errors(include_url=False), fields, variables)
    if settings is None or found:
        raise ConfigError(found)
    return settings


def keys(model: type[BaseSettings]) -> dict[str, FieldInfo]:
    """Every key ("section.key") with its field, for `config check`, the docs and the example file."""
    return {
        f"{section}.{key}": field
        for section, outer in model.model_fields.items()
        for key, field in outer.annotation.model_fields.items()  # type: ignore[union-attr]
    }
