"""What tests set in the fake AWS, and how they make a resource fail."""

import uuid
from dataclasses import dataclass, field
from typing import Any

#: User and password of the registry: `AWS` and `testing`, as base64.
TOKEN = "QVdTOnRlc3Rpbmc="


@dataclass
class Break:
    """A resource that is to fail `times` times: when it is created, updated or deleted, or at any time (None)."""

    resource: str
    reason: str
    when: str | None
    times: int


@dataclass
class Controls:
    """The settings that tests change through tests.deploy.cloud.Cloud."""

    endpoint: str = ""
    url: str = ""
    registry: str = ""
    storage: str = ""
    folder: str = ""
    pace: float = 0.0
    token: str = TOKEN
    breaks: list[Break] = field(default_factory=list)
    drifts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def repair(self) -> None:
        """Forget every failure, drift, pause and token that a test set."""
        self.breaks.clear()
        self.drifts.clear()
        self.pace, self.token = 0.0, TOKEN


CONTROLS = Controls()


class ResourceError(Exception):
    """A resource failed; the text is the event's ResourceStatusReason."""


def handler_message(message: str, code: str = "GeneralServiceException") -> str:
    """Return a message in the form that CloudFormation's resource handlers give it."""
    return f'Resource handler returned message: "{message}" (RequestToken: {uuid.uuid4()}, HandlerErrorCode: {code})'


def fail_if_broken(resource: str, when: str) -> None:
    """Raise ResourceError if a test wants this resource to fail now."""
    for broken in CONTROLS.breaks:
        if broken.resource == resource and broken.when in (None, when) and broken.times:
            broken.times -= 1
            raise ResourceError(handler_message(broken.reason))
