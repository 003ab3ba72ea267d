"""The containers' front door: function URL, Lambda API, event source mapping and what `faceq status` shows.

`python -m local.gateway` reads deploy/template.yaml, makes its queues on the SQS endpoint, and invokes functions that
run under the Runtime Interface Emulator in containers of their own. Order of a start: the Lambda API, which tells how
far it is; the queues; the functions; the event source mapping; and last the function URL, so that an open port 8000
means that a frame will be answered. What is not there yet, or goes away, is waited for and named once. A function that
cannot init ends the gateway with its reason, and the container's restart policy tries again.

The queues are made here, through SQS's own API, and not by a configuration of ElasticMQ: they are the template's, the
same call makes them on any SQS endpoint, and a changed template changes queues that hold messages.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Final

from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

from adapters.models.installed import installed_model
from adapters.queue_sqs import client
from adapters.settings import (
    DEFAULT_REGION,
    FACEQ_API_PORT,
    FACEQ_PORT,
    FACEQ_QUEUE_PORT,
    ModelSettings,
    port,
    template_parameters,
)
from adapters.wiring import checked_gallery
from client import stack_state
from client.stack_state import RunningStack
from local import queue_creation
from local.http_server import LOOPBACK
from local.lambda_service import WAIT_SECONDS, Child, Front, StackError, gallery_notice, queues_of, read_template
from local.runtimes import FunctionInitError
from local.runtimes.rie import REFRESH_SECONDS, RieRuntime
from pipeline.errors import FaceqError

#: The ports that the gateway listens on, in its container.
URL_PORT: Final = 8000
API_PORT: Final = 8001
#: Waits between tries while something is not there yet, seconds.
_RETRY_SECONDS: Final = 1.0


class Gateway:
    """The front door, from its start to its end.

    Parameters
    ----------
    environ : Mapping of str to str
        AWS_ENDPOINT_URL_SQS: the queues as seen from here. FACEQ_PORT, FACEQ_API_PORT, FACEQ_QUEUE_PORT: where people
        reach function URL, Lambda API and queues. COMPOSE_PROJECT_NAME: by which they find the logs.
        FACEQ_PARAMETERS: values for the template's parameters.
    host : str
        Address to listen on.

    """

    def __init__(self, environ: Mapping[str, str], host: str = LOOPBACK) -> None:
        self._region = environ.get("AWS_REGION") or DEFAULT_REGION
        self._sqs_endpoint = environ.get("AWS_ENDPOINT_URL_SQS", "")
        if not self._sqs_endpoint:
            raise StackError("Set AWS_ENDPOINT_URL_SQS to the queue server's address.")
        self._played = read_template(template_parameters(environ), self._sqs_endpoint, self._region)
        self._settings = ModelSettings.from_environment(environ)
        url, lambda_endpoint, sqs_endpoint = (
            f"http://{LOOPBACK}:{port(environ, name, default)}"
            for name, default in ((FACEQ_PORT, 8000), (FACEQ_API_PORT, 8001), (FACEQ_QUEUE_PORT, 9324))
        )
        self.stack = RunningStack(
            pid=0,
            function_url=f"{url}/",
            **queues_of(self._played, sqs_endpoint),
            region=self._region,
            sqs_endpoint=sqs_endpoint,
            lambda_endpoint=lambda_endpoint,
            model=installed_model(self._settings.model, self._settings.models).id,
            engine=self._settings.engine,
            gallery=environ.get("FACEQ_GALLERY_OF_HOST") or str(self._settings.gallery),
            logs=f"docker compose -p {environ.get('COMPOSE_PROJECT_NAME', 'faceq')} logs",
            runtime=stack_state.CONTAINERS,
        )
        self._runtime = RieRuntime(self._played.functions.values(), tell=tell)
        self._front = Front(tell, host=host)
        self._ready = False

    async def start(self) -> None:
        """Return once a frame would be answered."""
        front, runtime, played = self._front, self._runtime, self._played
        more = {stack_state.STACK_PATH: self._describe}
        await front.serve_api(runtime, played, self.stack.function_url, self._region, API_PORT, WAIT_SECONDS, more)
        front.stops.push_async_callback(runtime.stop)
        await asyncio.gather(self._make_queues(), runtime.start())
        self._check_gallery()
        mapping = front.mapping(played, self._concurrency(), self._sqs_endpoint, f"http://{LOOPBACK}:{API_PORT}")
        await mapping.start()
        front.task(self._follow_replicas(mapping))
        await front.serve_urls(runtime, played, URL_PORT)
        self._ready = True
        tell(f"faceq is up: {self.stack.function_url}")
        for sentence in played.only_on_aws:
            tell(f"only AWS can play: {sentence}")

    async def stop(self) -> None:
        """End everything, in order."""
        await self._front.stops.aclose()

    def _concurrency(self) -> dict[str, int]:
        return {name: self._runtime.concurrency(name) for name in self._played.functions}

    async def _follow_replicas(self, mapping: Child) -> None:
        """Tell the event source mapping how many replicas there are: with more pollers, batches would lie waiting."""
        told: tuple[int | None, dict[str, int]] | None = None
        while True:
            now = (mapping.pid, self._concurrency())
            if now != told:
                mapping.send(json.dumps(now[1]))
                told = now
            await asyncio.sleep(REFRESH_SECONDS)

    async def _make_queues(self) -> None:
        sqs = client(self._region, self._sqs_endpoint)
        make = partial(queue_creation.create_queues, sqs, self._played.queues)
        waits = False
        while True:
            try:
                return await asyncio.to_thread(make)
            except (BotoCoreError, ClientError) as error:
                if not waits:
                    tell(f"Waiting for the queue server at {self._sqs_endpoint}: {error}")
                waits = True
            await asyncio.sleep(_RETRY_SECONDS)

    def _check_gallery(self) -> None:
        try:
            notice = gallery_notice(checked_gallery(self._settings))
        except FaceqError as error:
            notice = f"{error.message} Until then frames with faces are answered Error."
        if notice:
            tell(notice)

    async def _describe(self, _request: web.Request) -> web.Response:
        """Answer what `faceq status` asks: where everything is, and how the functions' containers are."""
        replicas = [
            {
                "function": function,
                "container": await _container(replica.address[0]),
                "state": replica.state,
                "answered": replica.answered,
                "error": replica.error,
            }
            for function, some in self._runtime.replicas().items()
            for replica in some
        ]
        return web.json_response({"ready": self._ready, "stack": asdict(self.stack), "replicas": replicas})


async def _container(address: str) -> str:
    """Return the name of the container at an address, which Docker's name server knows; else the address."""
    try:
        name, _, _ = await asyncio.to_thread(socket.gethostbyaddr, address)
    except OSError:
        return address
    return name.partition(".")[0]


def tell(sentence: str) -> None:
    """Write a sentence for people where `docker compose logs` finds it."""
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()


async def _run(gateway: Gateway) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    starting = asyncio.create_task(gateway.start())
    interrupted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({starting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await interrupted
        else:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    finally:
        interrupted.cancel()
        await gateway.stop()


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.gateway", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on; in a container, 0.0.0.0")
    arguments = parser.parse_args()
    try:
        asyncio.run(_run(Gateway(os.environ, arguments.host)))
    except (StackError, FunctionInitError, FaceqError) as error:
        tell(f"faceq: {error}")
        return 1
    except OSError as error:
        tell(f"faceq: {error.strerror or error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
