"""Emulate AWS::Lambda::EventSourceMapping: the process that moves messages from queues into functions.

`python -m local.event_source_mapping` runs every mapping of the template, each with pollers of its own
(`event_source_mapping_pollers`), by the rules of `event_source_mapping_rules`.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from local.event_source_mapping_rules import MOST_POLLERS
from template.model import EventSourceMapping

if TYPE_CHECKING:
    from botocore.client import BaseClient

    from local.event_source_mapping_pollers import MappingPollers

#: How long a stop waits for running functions before it leaves their messages to the visibility timeout, seconds.
STOP_SECONDS: Final = 1.5


def command(mappings: Sequence[EventSourceMapping], concurrency: Mapping[str, int]) -> list[str]:
    """Return the arguments that start the process, which ends when its standard input is closed.

    Parameters
    ----------
    mappings : sequence of EventSourceMapping
        The template's; those that are not enabled are left out.
    concurrency : Mapping of str to int
        How many execution environments each function has, and so how many calls a mapping makes at once. A line with
        such a JSON object on the standard input of the process replaces it.

    """
    arguments = [sys.executable, "-m", "local.event_source_mapping", "--concurrency", json.dumps(dict(concurrency))]
    for mapping in mappings:
        if mapping.enabled:
            arguments += ["--mapping", json.dumps(asdict(mapping))]
    return arguments


def main() -> int:
    """Run the mappings until standard input is closed or SIGTERM comes."""
    # Here and in `_pollers`, because the supervisor imports this module for `command` and must not wait for boto3.
    from adapters import json_log

    parser = argparse.ArgumentParser(prog="python -m local.event_source_mapping", description=__doc__.splitlines()[0])
    parser.add_argument("--mapping", action="append", default=[], help="an EventSourceMapping as JSON")
    parser.add_argument("--concurrency", default="{}", help="how many environments each function has, as JSON")
    arguments = parser.parse_args()
    mappings = [EventSourceMapping(**json.loads(text)) for text in arguments.mapping]
    concurrency = json.loads(arguments.concurrency)
    for variable in ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_LAMBDA"):
        if variable not in os.environ:
            sys.stderr.write(f"Set {variable}: event source mappings run against local endpoints only.\n")
            return 1

    json_log.set_up("event-source-mapping", sys.stderr)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    pools = [_pollers(mapping, concurrency, stopping) for mapping in mappings]
    for pool in pools:
        pool.scale()
    threading.Thread(target=_follow_parent, args=[pools, stopping], daemon=True).start()
    sys.stdout.write(json.dumps({"ready": True}) + "\n")
    sys.stdout.flush()
    while not stopping.wait(1.0):
        for pool in pools:
            pool.scale()
    deadline = time.monotonic() + STOP_SECONDS
    for pool in pools:
        pool.join(deadline)
    return 0


def _pollers(
    mapping: EventSourceMapping, concurrency: Mapping[str, int], stopping: threading.Event
) -> "MappingPollers":
    from local.event_source_mapping_pollers import POLL_SECONDS, MappingPollers

    environments = concurrency.get(mapping.function, MOST_POLLERS)
    connections = 2 * (mapping.maximum_concurrency or environments)
    sqs = _client("sqs", mapping.region, connections, read_timeout=POLL_SECONDS + 10)
    # Longer than any function may run (900 s), so that the runtime enforces the function's timeout.
    functions = _client("lambda", mapping.region, connections, read_timeout=930)
    return MappingPollers(mapping, sqs, functions, stopping, environments)


def _client(service: str, region: str, connections: int, read_timeout: int) -> "BaseClient":
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        region_name=region,
        # The endpoints are on this machine and accept any credentials; the user's own are never sent to them.
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106
        config=Config(
            # botocore's own retries are off: a call that timed out may have run, and a stop must not wait for them.
            retries={"total_max_attempts": 1},
            max_pool_connections=connections,
            connect_timeout=2,
            read_timeout=read_timeout,
            proxies={},
        ),
    )


def _follow_parent(pools: "Sequence[MappingPollers]", stopping: threading.Event) -> None:
    """Read new concurrencies from standard input, and stop when it is closed."""
    rest = b""
    # os.read, not sys.stdin: a thread that holds the lock of the buffer would make the interpreter's exit fail.
    while content := os.read(0, 4096):
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            concurrency = json.loads(line)
            for pool in pools:
                pool.environments = concurrency.get(pool.function, pool.environments)
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
