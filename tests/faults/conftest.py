"""What the cluster tests share."""

import gc
from collections.abc import Callable, Iterator

import pytest

from tests.faults.cluster_run import Measured


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect here the sockets that the driver leaks: in another test the warnings are errors."""
    yield
    gc.collect()


@pytest.fixture
def say(record_property: Callable[[str, object], None]) -> Callable[[Measured], None]:
    """Keeps what a scenario measured: shown with ``-s``, and in a report of the run."""

    def keep(measured: Measured) -> None:
        record_property("measured", str(measured))
        print(f"\n  {measured}")

    return keep
