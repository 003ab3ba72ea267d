"""The two queue servers that tests can start: our own process, and ElasticMQ in a container."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException

import boto3
import yaml
from botocore.client import BaseClient
from botocore.config import Config

from local import queue_server
from tests.functional.targets import ROOT, docker
from tests.polling import eventually

#: How long ElasticMQ may take to start; it takes 1 to 4 s on two busy cores.
START_SECONDS = 60.0


@contextmanager
def running_queue_server(port: int = 0) -> Iterator[str]:
    """Start `local.queue_server`, by default on a free port, and yield its endpoint."""
    process = subprocess.Popen(queue_server.command(port), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@contextmanager
def running_elasticmq(port: int = 0) -> Iterator[str]:
    """Start the ElasticMQ of docker-compose.yml with our configuration and without messages; remove it in the end."""
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["elasticmq"]["image"]
    name = f"faceq-test-queue-{uuid.uuid4().hex[:8]}"
    try:
        docker(
            "run", "--detach", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:9324", "--tmpfs", "/data",
            "--volume", f"{ROOT / 'local' / 'elasticmq.conf'}:/opt/elasticmq.conf:ro", image,
        )  # fmt: skip
        host = docker("port", name, "9324").strip()
        eventually(lambda: is_healthy(host), START_SECONDS)
        yield f"http://{host}"
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True, timeout=60, check=False)


def is_healthy(host: str) -> bool:
    connection = HTTPConnection(host, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False  # Docker opens the port before ElasticMQ listens on it
    finally:
        connection.close()


def sqs_client(endpoint: str) -> BaseClient:
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, max_pool_connections=50, proxies={}),
    )
