"""AWS's rules about what goes together in a template, each stated once, with its source.

The ranges of single properties are checked where they are read (`template.reader`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from template import permissions
from template.lambda_facts import MAX_ENVIRONMENT_BYTES, MAX_UNBUFFERED_BATCH, RESERVED_VARIABLES
from template.model import EventSourceMapping, Function, Queue, ServiceTemplate
from template.resources import Template
from template.values import as_map

#: Most bytes of a template in a call, and most entries of its sections.
#: (CloudFormation user guide, "Understand CloudFormation quotas")
INLINE_BYTES: Final = 51_200
MOST: Final = {"Resources": 500, "Parameters": 200, "Outputs": 200}

#: The visibility timeout that Lambda's guide asks for, in timeouts of the function, and the least maxReceiveCount.
#: (Lambda developer guide, "Creating and configuring an Amazon SQS event source mapping")
TIMEOUTS_HIDDEN: Final = 6
LEAST_RECEIVE_COUNT: Final = 5
#: The least MaximumConcurrency. (Lambda API reference, ScalingConfig)
_LEAST_CONCURRENCY: Final = 2


class Severity(Enum):
    """What comes of a finding."""

    #: AWS refuses to create it: neither `faceq up` nor `faceq deploy` goes on.
    REFUSED = "refused"
    #: AWS creates it, and frames or money are lost: `faceq deploy` refuses it, the laptop advises against it.
    HARMFUL = "harmful"
    #: AWS creates it, and its documentation advises against it: the laptop says so.
    ADVISED = "advised against"


@dataclass(frozen=True)
class Finding:
    """A rule that a template breaks.

    Parameters
    ----------
    line : int
        Where, counted from 1.
    reason, remedy : str
        What is wrong, and what puts it right; one sentence or two each.

    """

    severity: Severity
    line: int
    reason: str
    remedy: str

    @property
    def sentence(self) -> str:
        """The reason and the remedy."""
        return f"{self.reason} {self.remedy}"


def findings(template: Template, service: ServiceTemplate) -> list[Finding]:
    """Return the rules that a template breaks.

    Parameters
    ----------
    template : Template
    service : ServiceTemplate
        What `read_service` returned for the template.

    """
    return [
        *_quotas(template),
        *_loops(template, service),
        *(finding for mapping in service.event_source_mappings for finding in _mapping(template, service, mapping)),
        *(finding for function in service.functions.values() for finding in _function(template, function)),
        *_network(template),
    ]


def _quotas(template: Template) -> Iterator[Finding]:
    if template.bytes > INLINE_BYTES:
        yield Finding(
            Severity.REFUSED,
            1,
            f"The template has {template.bytes:,} bytes; CloudFormation takes {INLINE_BYTES:,} in a call.",
            "Shorten it, or split it into two stacks.",
        )
    for section, most in MOST.items():
        if template.counts[section] > most:
            yield Finding(
                Severity.REFUSED,
                1,
                f"The template has {template.counts[section]} {section}; CloudFormation takes {most}.",
                "Split it into two stacks.",
            )


def _mapping(template: Template, service: ServiceTemplate, mapping: EventSourceMapping) -> Iterator[Finding]:
    """Check one event source mapping that runs, with its queue and its function."""
    if not mapping.enabled:
        return
    resource = template.resources[mapping.logical_id]
    queue, function = service.queues[mapping.queue], service.functions[mapping.function]
    # Lambda API reference, CreateEventSourceMapping, BatchSize.
    if mapping.batch_size > MAX_UNBUFFERED_BATCH and mapping.window_seconds < 1:
        yield Finding(
            Severity.REFUSED,
            resource.line("BatchSize"),
            f"{mapping.logical_id}: a batch of {mapping.batch_size} needs a batching window of at least 1 s.",
            f"Set {resource.setting('MaximumBatchingWindowInSeconds')} to 1 or more, or "
            f"{resource.setting('BatchSize')} to {MAX_UNBUFFERED_BATCH} or less.",
        )
    yield from _visibility(template, mapping, queue, function)
    yield from _redrive(template, queue)
    yield from _concurrency(template, service, mapping, function)


def _visibility(template: Template, mapping: EventSourceMapping, queue: Queue, function: Function) -> Iterator[Finding]:
    wanted = TIMEOUTS_HIDDEN * function.timeout_seconds + mapping.window_seconds
    if queue.visibility_timeout >= wanted:
        return
    resource = template.resources[queue.logical_id]
    line = resource.line("VisibilityTimeout")
    remedy = f"Set {resource.setting('VisibilityTimeout')} to {wanted} or more."
    if queue.visibility_timeout < function.timeout_seconds:
        # The message of CreateEventSourceMapping's InvalidParameterValueException.
        reason = (
            f"{mapping.logical_id}: Queue visibility timeout: {queue.visibility_timeout} seconds is less than Function "
            f"timeout: {function.timeout_seconds} seconds."
        )
        yield Finding(Severity.REFUSED, line, reason, remedy)
    else:
        # Lambda developer guide, "Creating and configuring an Amazon SQS event source mapping".
        reason = (
            f"{queue.logical_id} hides a frame for {queue.visibility_timeout} s, less than {wanted} s: six times the "
            f"timeout of {function.name} plus the batching window. A throttled batch would run twice."
        )
        yield Finding(Severity.HARMFUL, line, reason, remedy)


def _redrive(template: Template, queue: Queue) -> Iterator[Finding]:
    """Lambda developer guide, "Creating and configuring an Amazon SQS event source mapping"."""
    resource = template.resources[queue.logical_id]
    if queue.redrive is None:
        yield Finding(
            Severity.ADVISED,
            resource.line(),
            f"{queue.logical_id} has no dead-letter queue: a message that always fails comes back until it expires.",
            f"Set RedrivePolicy of {queue.logical_id}.",
        )
    elif queue.redrive.max_receive_count < LEAST_RECEIVE_COUNT:
        yield Finding(
            Severity.ADVISED,
            resource.line("RedrivePolicy", "maxReceiveCount"),
            f"{queue.logical_id}: a maxReceiveCount of {queue.redrive.max_receive_count} sends throttled messages to "
            f"the dead-letter queue early.",
            f"Set {resource.setting('RedrivePolicy', 'maxReceiveCount')} to {LEAST_RECEIVE_COUNT} or more.",
        )


def _concurrency(
    template: Template, service: ServiceTemplate, mapping: EventSourceMapping, function: Function
) -> Iterator[Finding]:
    """Find mappings that together may call their function more often at a time than is reserved for it.

    (Lambda developer guide, "Configuring scaling behavior for SQS event source mappings": the reserved concurrency
    should be at least the total maximum concurrency of all SQS event sources of the function)
    """
    reserved, most = function.reserved_concurrency, mapping.maximum_concurrency
    limited = [
        other
        for other in service.event_source_mappings
        if other.enabled and other.function == mapping.function and other.maximum_concurrency is not None
    ]
    total = sum(other.maximum_concurrency or 0 for other in limited)
    if reserved is None or (most is not None and total <= reserved):
        return
    resource, on_function = template.resources[mapping.logical_id], template.resources[function.logical_id]
    limit = resource.setting("ScalingConfig", "MaximumConcurrency")
    if most is None:
        yield Finding(
            Severity.ADVISED,
            resource.line(),
            f"{mapping.logical_id} may call {function.name} more often at a time than the {reserved} that are "
            f"reserved: the rest would be throttled.",
            f"Set {limit} to at most {reserved}.",
        )
        return
    if mapping is not max(limited, key=lambda other: other.maximum_concurrency or 0):
        return  # one finding for all mappings of the function, at the one that calls it most
    remedy = f"Set {on_function.setting('ReservedConcurrentExecutions')} to {total} or more"
    if (rest := reserved - (total - most)) >= _LEAST_CONCURRENCY:
        remedy += f", or {limit} to {rest} or less"
    callers = permissions.enumerated([other.logical_id for other in limited])
    yield Finding(
        Severity.HARMFUL,
        resource.line("ScalingConfig", "MaximumConcurrency"),
        f"{callers} may call {function.name} {total} times at once, and {reserved} are reserved: the rest "
        f"would be throttled, and frames end on the dead-letter queue.",
        f"{remedy}.",
    )


def _function(template: Template, function: Function) -> Iterator[Finding]:
    resource = template.resources[function.logical_id]
    # Lambda developer guide, "Working with Lambda environment variables".
    for name in sorted(RESERVED_VARIABLES & function.environment.keys()):
        yield Finding(
            Severity.REFUSED,
            resource.line("Environment", "Variables", name),
            f"{function.logical_id}: the variable {name} is set by Lambda, which refuses it here.",
            "Take it out.",
        )
    size = sum(len(name.encode()) + len(text.encode()) for name, text in function.environment.items())
    if size > MAX_ENVIRONMENT_BYTES:
        yield Finding(
            Severity.REFUSED,
            resource.line("Environment"),
            f"{function.logical_id}: the variables have {size:,} bytes; Lambda takes {MAX_ENVIRONMENT_BYTES:,}.",
            "Shorten them.",
        )
    # Lambda developer guide, "Configuring provisioned concurrency for a function".
    warm, reserved = function.provisioned_concurrency, function.reserved_concurrency
    if reserved is not None and warm > reserved:
        yield Finding(
            Severity.REFUSED,
            resource.line("ReservedConcurrentExecutions"),
            f"{function.name}: {warm} are kept warm and {reserved} reserved; Lambda refuses more than is reserved.",
            f"Set {resource.setting('ReservedConcurrentExecutions')} to {warm} or more.",
        )


def _network(template: Template) -> Iterator[Finding]:
    """Find a VPC whose subnets or route tables are not named."""
    missing: dict[str, int] = {}
    for resource in template.of("AWS::EC2::VPCEndpoint").values():
        for key in ("SubnetIds", "RouteTableIds"):
            if resource.property(key) == []:
                missing.setdefault(key, resource.line(key))
    for resource in template.of("AWS::Lambda::Function").values():
        if as_map(resource.property("VpcConfig")).get("SubnetIds") == []:
            missing.setdefault("SubnetIds", resource.line("VpcConfig"))
    if missing:
        yield Finding(
            Severity.HARMFUL,
            min(missing.values()),
            "Functions in a VPC need its subnets and route tables.",
            f"Set {permissions.enumerated(sorted(missing, reverse=True))}.",
        )


# Loops


def _loops(template: Template, service: ServiceTemplate) -> Iterator[Finding]:
    """Find each queue that calls a function which sends to that queue, itself or through others.

    (Lambda developer guide, "Use Lambda recursive loop detection to prevent infinite loops")
    """
    calls: dict[str, list[tuple[str, str]]] = {}
    for mapping in service.event_source_mappings:
        if mapping.enabled:
            queue, function = service.queues[mapping.queue], service.functions[mapping.function]
            calls.setdefault(queue.logical_id, []).append((mapping.logical_id, function.logical_id))
    sends = {
        function.logical_id: permissions.queues_sent_to(template, function.logical_id)
        for function in service.functions.values()
    }
    reported: set[str] = set()
    for mappings, path in sorted(_cycles(template, calls, sends), key=lambda cycle: len(cycle[0])):
        if not reported.isdisjoint(mappings):
            continue
        reported |= set(mappings)
        yield Finding(
            Severity.HARMFUL,
            template.resources[mappings[0]].line(),
            f"Frames would go round without end, and you pay for each round: {path}.",
            f"Take the event source mapping {' or '.join(mappings)} out; clients read the answers, no function does.",
        )


def _cycles(
    template: Template, calls: Mapping[str, Sequence[tuple[str, str]]], sends: Mapping[str, Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield, for each queue that leads back to itself, the mappings of the shortest path and the path in words."""
    for start in calls:
        paths: list[tuple[str, tuple[str, ...], str]] = [(start, (), start)]
        seen: set[str] = set()
        while paths:
            queue, mappings, words = paths.pop(0)
            steps = [
                (
                    target,
                    (*mappings, mapping),
                    f"{words} calls {template.name_of(function)}, which may send to {target}",
                )
                for mapping, function in calls.get(queue, ())
                for target in sends[function]
            ]
            cycle = next((step for step in steps if step[0] == start), None)
            if cycle is not None:
                yield cycle[1], cycle[2]
                break
            for target, path, described in steps:
                if target not in seen:
                    seen.add(target)
                    paths.append((target, path, f"{described}, which"))
