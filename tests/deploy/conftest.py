"""What these tests share: the manifests as kustomize makes them."""

from typing import Any

import pytest

from tests.deploy.programs import OVERLAY, rendered

Manifests = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def manifests() -> Manifests:
    """The overlay's resources by kind."""
    return rendered(OVERLAY)


@pytest.fixture
def pod(manifests: Manifests) -> Any:
    """The specification of the Pod."""
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: Any) -> Any:
    (container,) = pod["containers"]
    return container
