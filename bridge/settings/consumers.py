"""The consumers of the streams: worker loop, notifier, orchestrator, predictions, explanations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from bridge.settings.section import (
    MAX_AGE_S,
    Age,
    CheckedUrl,
    Count,
    Days,
    Delay,
    Factor,
    Host,
    Port,
    Positive,
    Section,
    TimeZone,
)


class ConsumerSettings(Section):
    batch: Count = 500
    """Most entries handed to a consumer at once."""
    block_s: Positive = 1.0
    """Longest wait for the first entry of a batch."""
    claim_after_s: Age = 30.0
    """Entries that a consumer has held for so long without a sign of life are taken over by another."""
    max_attempts: Count = 5
    """Tries before an event that fails is moved to <stream>:dead."""
    retry_min_s: Positive = 0.2
    """First delay before a failed event is tried again; doubles, with jitter."""
    retry_max_s: Positive = 10.0
    """Longest delay between tries."""
    remembered: Count = 10_000
    """Event ids handled lately, kept in memory to pass over repeated events."""
    metrics_host: Host = "127.0.0.1"
    """Address that a consumer process serves its metrics on."""
    metrics_port: Port | None = None
    """Port that a consumer process serves its metrics on, one for each process; 0 takes a free one."""


Severity = Literal["info", "warning", "critical"]


class ChannelSettings(Section):
    """Where notifications go: an Apprise URL, or a webhook of your own."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the channel, in rules and in alert_notifications."""
    url: str = Field(default="", repr=False)
    """Apprise URL: mailto://…, slack://…, tgram://…"""
    webhook: Annotated[str, CheckedUrl] = Field(default="", pattern=r"^$|^https?://", repr=False)
    """Where notifications are posted as JSON, in place of `url`."""
    secret: str = Field(default="", repr=False)
    """Secret that the webhook's posts are signed with."""
    per_minute: Count = 10
    """Messages a minute; what is more is gathered into a digest."""
    digest_wait_s: Delay = 10.0
    """How long a digest of too many notifications waits for more of them."""
    digest_every_s: Delay = 60.0
    """Least time between two digests of too many notifications."""
    timeout_s: Positive = 20.0
    """Longest time of one delivery."""

    @model_validator(mode="after")
    def _one_target(self) -> ChannelSettings:
        if bool(self.url) == bool(self.webhook):
            raise ValueError("a channel has either url (Apprise) or webhook")
        if self.webhook and not self.secret:
            raise ValueError("a webhook needs a secret, which its posts are signed with")
        return self


class RuleSettings(Section):
    """Which events go to which channels. An event goes to a channel once, by the first rule that fits."""

    of_lines = frozenset({"title", "body"})

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the rule, in alert_notifications."""
    channels: tuple[str, ...] = Field(min_length=1)
    """Names of channels."""
    kinds: tuple[Literal["alert", "warning", "resolved", "decision"], ...] = ("alert", "warning", "resolved")
    """Kinds of events."""
    severity: Severity = "warning"
    """Least severity."""
    devices: tuple[str, ...] = ()
    """Device names (with * and ?), UUIDs or ids; with `groups` empty too: every device."""
    groups: tuple[str, ...] = ()
    """Device groups of notifier.groups."""
    sensor_types: tuple[str, ...] = ()
    """Sensor types; empty: all."""
    quiet: str = Field(default="", pattern=r"^$|^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")
    """Hours in which nothing is sent, such as 22:00-06:00; then one digest of them is."""
    quiet_except: Severity | None = "critical"
    """Least severity that is sent in quiet hours all the same."""
    repeat_s: Delay = 0.0
    """An alert that stays active and unacknowledged is notified again after so long; 0: it is not."""
    cooldown_s: Delay = 0.0
    """For so long after a notification, more of the same kind and severity from the same sensor are not sent."""
    digest_s: Delay = 0.0
    """Everything within so long is gathered into one digest; 0: each is sent on its own."""
    title: str = ""
    """Template of the title; empty: the standard one."""
    body: str = ""
    """Template of the text; empty: the standard one."""


class NotifierSettings(Section):
    timezone: TimeZone = "UTC"
    """Time zone of quiet hours and of times in texts."""
    give_up_s: Age = 86_400.0
    """Age at which a notification that cannot be delivered is given up as failed."""
    retry_min_s: Positive = 2.0
    """First delay before a channel that failed is tried again; doubles, with jitter."""
    retry_max_s: Positive = 60.0
    """Longest delay between tries of a channel."""
    keep_days: Days = 90
    """How long rows of alert_notifications are kept."""
    groups: dict[str, tuple[str, ...]] = Field(default={})
    """Device groups: a name, and device names (with * and ?), UUIDs or ids."""
    channels: tuple[ChannelSettings, ...] = ()
    """Where notifications go."""
    rules: tuple[RuleSettings, ...] = ()
    """What goes where."""

    @model_validator(mode="after")
    def _names(self) -> NotifierSettings:
        channels = [channel.name for channel in self.channels]
        for named in (channels, [rule.name for rule in self.rules]):
            for name in named:
                if named.count(name) > 1:
                    raise ValueError(f"the name {name!r} is there twice")
        for rule in self.rules:
            for missing in sorted({*rule.channels} - {*channels}):
                raise ValueError(f"rule {rule.name!r}: no channel {missing!r}")
            for missing in sorted({*rule.groups} - {*self.groups}):
                raise ValueError(f"rule {rule.name!r}: no group {missing!r}")
        return self


class OrchestratorSettings(Section):
    patience: Factor = 5.0
    """A sensor is silent after so many times its own usual interval."""
    silence_min_s: Age = 60.0
    """No sensor is silent before so long, however quick it is."""
    silence_max_s: Age = 86_400.0
    """Every sensor is silent after so long; this goes for sensors that are not known well yet, too."""
    learn_readings: Count = 5
    """Readings after which a sensor's own rhythm is believed."""
    flap_changes: Count = 6
    """More changes of a sensor's level than this within flap_window_s are flapping."""
    flap_window_s: Age = 600.0
    """Time in which changes are counted, and for which a flapping sensor must be steady."""
    checkpoint_s: Positive = 30.0
    """How often what is known of each sensor is kept in the database."""
    max_sensors: Count = 200_000
    """Sensors kept in memory, about 1 kB each; the least recently heard are forgotten."""


class MlSettings(Section):
    predictor: str = "baseline"
    """Entry point of the predictor, in the group iot_bridge.predictors."""
    season_s: float = Field(default=86_400.0, ge=0, le=MAX_AGE_S, allow_inf_nan=False)
    """Period of the season: a day; 0 is none."""
    season_parts: int = Field(default=24, ge=4, le=400)
    """Parts of the season that are told apart."""
    warm_readings: Count = 30
    """Readings of a sensor before its values are judged."""
    anomaly_score: Factor = 6.0
    """A value that lies off by more standard deviations than this is an anomaly."""
    horizon_s: Age = 900.0
    """How far ahead values are predicted, at least; further where the sensor's own interval is longer."""
    write_every_s: Age = 300.0
    """How often a prediction of a sensor is written, and an anomaly that lasts."""
    checkpoint_s: Positive = 60.0
    """How often what is known of each sensor is kept in the database."""
    keep_days: Days = 30
    """How long predictions are kept."""
    max_sensors: Count = 100_000
    """Sensors kept in memory, about 2 kB each; the least recently heard are forgotten."""


class ExplainSettings(Section):
    url: Annotated[str, CheckedUrl] = Field(default="", pattern=r"^$|^https?://")
    """Base URL of an external explainer of anomalies; /explain/anomaly is added to it."""
    token: str = Field(default="", repr=False)
    """Bearer token that it is sent, where it wants one."""
    timeout_s: Positive = 30.0
    """Longest wait for one explanation."""
