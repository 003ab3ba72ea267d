"""The real queue server process, for the tests that need one."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.client import BaseClient
from botocore.config import Config

from local import queues


@contextmanager
def running_queue_server(port: int = 0) -> Iterator[str]:
    """Start `local.queues`, on a free port by default; give its endpoint; end it by closing its standard input."""
    process = subprocess.Popen(queues.command(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def sqs_client(endpoint: str) -> BaseClient:
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, max_pool_connections=50, proxies={}),
    )
