"""What the tests of `faceq deploy` share: an AWS, with and without a real registry."""

from collections.abc import Iterator

import pytest

from tests.deploy.cloud import Cloud, misleading, running_cloud, why_no_registry


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """An empty account, and this process's environment as its owner has it. Its ECR has no registry."""
    with running_cloud(with_registry=False) as started:
        _sign_in(monkeypatch, started)
        yield started


@pytest.fixture
def registry_cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """As `cloud`, with a real registry behind ECR."""
    reason = why_no_registry()
    if reason:
        pytest.skip(reason)
    with running_cloud() as started:
        _sign_in(monkeypatch, started)
        yield started


def _sign_in(monkeypatch: pytest.MonkeyPatch, cloud: Cloud) -> None:
    for name in misleading():
        monkeypatch.delenv(name)
    for name, value in cloud.variables.items():
        monkeypatch.setenv(name, value)
