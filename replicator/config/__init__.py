"""Settings: flags over environment over a TOML file over defaults, checked before anything starts.

Use `load_settings`. The models are frozen and never show a password. The names of settings are
fixed by the project's contract; the documentation is checked against the models.
"""

from replicator.config.load import load_settings
from replicator.config.model import Outbox, Settings, Table
from replicator.config.urls import RabbitMQUrl, RethinkDBUrl
from replicator.config.values import HostPort

__all__ = [
    "HostPort",
    "Outbox",
    "RabbitMQUrl",
    "RethinkDBUrl",
    "Settings",
    "Table",
    "load_settings",
]
