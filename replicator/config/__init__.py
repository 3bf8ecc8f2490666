"""Settings: flags over environment over a TOML file over defaults, checked before anything starts.

Use `load_settings`. The models are frozen and never show a password. The names of settings are
fixed by the project's contract; the documentation is checked against `describe_settings`.
"""

from replicator.config.describe import Setting, describe_settings
from replicator.config.load import load_settings
from replicator.config.model import Settings, Table
from replicator.config.urls import RabbitMQUrl, RethinkDBUrl
from replicator.config.values import HostPort

__all__ = [
    "HostPort",
    "RabbitMQUrl",
    "RethinkDBUrl",
    "Setting",
    "Settings",
    "Table",
    "describe_settings",
    "load_settings",
]
