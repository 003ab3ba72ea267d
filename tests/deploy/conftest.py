"""Fixtures of the tests of `faceq deploy`: a fake AWS account, with and without a real registry."""

from collections.abc import Iterator

import pytest

from tests.aws_server import misleading
from tests.deploy.cloud import Cloud, running_cloud, why_no_registry


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
    """An empty account without a registry. This process's environment is that of the account's owner."""
    return _signed_in(monkeypatch, _without_registry)


@pytest.fixture
def registry_cloud(_with_registry: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """An empty account with a real registry behind ECR. This process's environment is that of the account's owner."""
    return _signed_in(monkeypatch, _with_registry)


def _signed_in(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> Cloud:
    cloud.reset()
    for name in misleading():
        monkeypatch.delenv(name)
    for name, value in cloud.variables.items():
        monkeypatch.setenv(name, value)
    return cloud
