"""Settings: durations, sizes, and the description of each."""

from datetime import timedelta

import pytest

from replicator.config.values import parse_duration, parse_size
from tests.support.settings import describe_settings, load


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("20s", 20), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5), ("7", 7), (3, 3)],
)
def test_durations_are_understood(value: object, seconds: float) -> None:
    assert parse_duration(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value", ["", "-1s", "1d", "s", "1m30s", -1, True, None, [], float("inf"), "9" * 400]
)
def test_what_is_no_duration_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [("4GiB", 4 * 2**30), ("512 mib", 2**29), ("2GB", 2 * 10**9), ("10", 10), ("7B", 7), (5, 5)],
)
def test_sizes_are_understood(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "0", 0, -1, "1PiB", True, None, 1.5, 2**63, "9" * 400])
def test_what_is_no_size_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(value)


# Descriptions.


def test_every_setting_is_described_with_its_default() -> None:
    described = {setting.key: setting for setting in describe_settings()}

    assert described["rabbitmq.url"].default == "amqp://guest:guest@127.0.0.1:5672/%2F"
    assert described["outbox.max_bytes"].default == "4GiB"
    assert described["drain_timeout"].default == "20s"
    assert described["tables[].name"].default is None
    assert described["rabbitmq.window"].environment == "REPLICATOR_RABBITMQ__WINDOW"
    assert described["tables[].name"].environment is None
    assert all(setting.meaning for setting in described.values())


def test_each_described_default_is_what_the_setting_has_when_it_is_given() -> None:
    given_all = {
        setting.environment: setting.default
        for setting in describe_settings()
        if setting.environment and setting.default not in {None, "none"}
    }

    settings = load({str(name): str(value) for name, value in given_all.items()})

    assert settings.model_dump() == load().model_dump()
