"""What deploy/template.yaml describes, as values: functions, queues, and what joins them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from template.values import Value
from template.yaml_nodes import TemplateError

#: How the names of the two queues of the contract end, by which clients find them.
REQUEST_QUEUE_ENDING: Final = "-req-queue"
RESPONSE_QUEUE_ENDING: Final = "-resp-queue"


@dataclass(frozen=True)
class Redrive:
    """Where a queue's messages go after `max_receive_count` receives without a delete (1 to 1000)."""

    dead_letter_queue: str
    max_receive_count: int


@dataclass(frozen=True)
class Queue:
    """A standard SQS queue.

    Parameters
    ----------
    logical_id, name : str
        Its names in the template and in SQS.
    visibility_timeout : int
        Seconds that a received message stays hidden, 0 to 43200.
    receive_wait : int
        Seconds that a receive waits if the caller does not say, 0 to 20.
    delay : int
        Seconds until a sent message can be received, 0 to 900.
    redrive : Redrive or None
        Where failed messages go.

    """

    logical_id: str
    name: str
    visibility_timeout: int
    receive_wait: int
    delay: int
    redrive: Redrive | None


@dataclass(frozen=True)
class Function:
    """A Lambda function from an image.

    Parameters
    ----------
    logical_id, name : str
        Its names in the template and in Lambda.
    handler : str
        What the image's command names, `module.function`.
    timeout_seconds, memory_mb : int
        1 to 900; 128 to 10240.
    environment : Mapping of str to str
        Its variables, references resolved.
    reserved_concurrency : int or None
        Most environments at once; None where the template does not limit them.
    unplayed_properties : Mapping of str to Value
        Properties that are part of its configuration although the laptop does not play them (image, role, ...), as the
        template has them; None where the value is only known on AWS.
    architecture : str
        `x86_64` or `arm64`.
    provisioned_concurrency : int
        Environments that AWS keeps ready; 0 keeps none.

    """

    logical_id: str
    name: str
    handler: str
    timeout_seconds: int
    memory_mb: int
    environment: Mapping[str, str]
    reserved_concurrency: int | None
    unplayed_properties: Mapping[str, Value] = field(default_factory=dict)
    architecture: str = "x86_64"
    provisioned_concurrency: int = 0


@dataclass(frozen=True)
class FunctionUrl:
    """An HTTP address of a function.

    Parameters
    ----------
    logical_id, function : str
        Its name in the template, and its function's name.
    auth_type : str
        `AWS_IAM` or `NONE`; the local side asks for neither.
    unplayed_properties : Mapping of str to Value
        Properties that are not played, `Cors` among them, as for a function.

    """

    logical_id: str
    function: str
    auth_type: str
    unplayed_properties: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Permission:
    """A statement of a function's resource policy. The laptop shows it and does not check it.

    Parameters
    ----------
    logical_id, function : str
        Its name in the template, and the function it is about.
    action, principal : str
        What is allowed to whom: an account, an ARN, a service's domain, or `*`.
    conditions : Mapping of str to str
        Under which conditions, by the names of the resource's properties (reader.PERMISSION_CONDITIONS).

    """

    logical_id: str
    function: str
    action: str
    principal: str
    conditions: Mapping[str, str]


@dataclass(frozen=True)
class EventSourceMapping:
    """A queue that triggers a function.

    Parameters
    ----------
    logical_id : str
        Its name in the template.
    function, queue : str
        Names of the two ends.
    queue_url, queue_arn, region : str
        How the queue is reached and what a record says of it.
    visibility_timeout : int
        The queue's, seconds.
    batch_size : int
        Most records in one call, 1 to 10000.
    window_seconds : int
        Longest wait for a full batch, 0 to 300.
    maximum_concurrency : int or None
        Most calls at once, 2 to 1000; None for AWS's own limit.
    report_batch_item_failures : bool
        Whether the function's answer says which records failed.
    enabled : bool
        False for a mapping that exists and does not run.

    """

    logical_id: str
    function: str
    queue: str
    queue_url: str
    queue_arn: str
    region: str
    visibility_timeout: int
    batch_size: int
    window_seconds: int
    maximum_concurrency: int | None
    report_batch_item_failures: bool
    enabled: bool


@dataclass(frozen=True)
class ServiceTemplate:
    """The service that a template describes.

    Parameters
    ----------
    functions, queues : Mapping
        By their names on AWS.
    only_on_aws : list of str
        A sentence for each thing that AWS does and the laptop does not.
    advice : list of str
        A sentence for each thing that AWS accepts although it loses frames, costs money or is advised against.
    unplayable : tuple of TemplateError
        What the laptop cannot leave out and cannot play, each with its line.

    """

    functions: Mapping[str, Function]
    function_urls: tuple[FunctionUrl, ...]
    queues: Mapping[str, Queue]
    event_source_mappings: tuple[EventSourceMapping, ...]
    only_on_aws: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    permissions: tuple[Permission, ...] = ()
    unplayable: tuple[TemplateError, ...] = ()

    @property
    def response_queue(self) -> Queue | None:
        """The queue whose name ends in `-resp-queue`, as clients find it; None if there is not exactly one."""
        return self._queue_ending(RESPONSE_QUEUE_ENDING)

    @property
    def request_queue(self) -> Queue | None:
        """The queue whose name ends in `-req-queue`, as clients find it; None if there is not exactly one."""
        return self._queue_ending(REQUEST_QUEUE_ENDING)

    @property
    def dead_letter_queue(self) -> Queue | None:
        """The queue where frames end that failed on every attempt: the last of the request queue's chain."""
        queue, passed = self.request_queue, set[str]()
        while queue is not None and queue.redrive is not None and queue.name not in passed:
            passed.add(queue.name)
            queue = self.queues.get(queue.redrive.dead_letter_queue)
        return queue if passed else None

    def _queue_ending(self, ending: str) -> Queue | None:
        queues = [queue for name, queue in self.queues.items() if name.endswith(ending)]
        return queues[0] if len(queues) == 1 else None
