"""What the tests of `faceq deploy` share: an AWS, with and without a real registry."""

from collections.abc import Iterator

import pytest

from tests.deploy.cloud import Cloud, misleading, running_cloud, why_no_registry


@pytest.fixture(scope="session")
def _without_registry() -> Iterator[Cloud]:
    with running_cloud(with_registry=False) as started:
        yield started


@pytest.fixture(scope="session")
def _with_registry() -> Iterator[Cloud]:
    reason = why_no_registry()
    if reason:
        pytest.skip(reason)
    with running_cloud() as started:
        yield started


@pytest.fixture
def cloud(_without_registry: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An empty account, and this process's environment as its owner has it. Its ECR has no registry."""
    return _signed_in(monkeypatch, _without_registry)


@pytest.fixture
def registry_cloud(_with_registry: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """As `cloud`, with a real registry behind ECR."""
    return _signed_in(monkeypatch, _with_registry)


def _signed_in(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> Cloud:
    cloud.reset()
    for name in misleading():
        monkeypatch.delenv(name)
    for name, value in cloud.variables.items():
        monkeypatch.setenv(name, value)
    return cloud
