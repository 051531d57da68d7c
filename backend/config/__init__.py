"""The settings of a run, their checks, and the configuration with which a run is created."""

from backend.config.checks import SIZE_MULTIPLE, sides_of
from backend.config.declare import Effect, Group, effects_of, group_of
from backend.config.lookup import settings_affecting, settings_in
from backend.config.mistakes import find_mistakes, parse_settings
from backend.config.run_config import FORMAT_VERSION, Choice, RunConfig
from backend.config.settings import NUMBER_SETTINGS, DatasetFormat, ModelName, Settings
from backend.config.typed_numbers import AUTO, NumberSetting

__all__ = [
    "AUTO",
    "FORMAT_VERSION",
    "NUMBER_SETTINGS",
    "SIZE_MULTIPLE",
    "Choice",
    "DatasetFormat",
    "Effect",
    "Group",
    "ModelName",
    "NumberSetting",
    "RunConfig",
    "Settings",
    "effects_of",
    "find_mistakes",
    "group_of",
    "parse_settings",
    "settings_affecting",
    "settings_in",
    "sides_of",
]
