"""The image that `make image-check` has built, and the program that runs it."""

import os

import pytest

from tests.image.container import Engine


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Docker or podman, with the image. Where none was built these tests are skipped."""
    if "CONTAINER_ENGINE" not in os.environ:
        pytest.skip("make image-check builds the image and runs these tests")
    return Engine(os.environ["CONTAINER_ENGINE"], os.environ["CONTAINER_IMAGE"])
