"""The containers' gateway: function URL, Lambda API, event source mappings, and what `faceq status` shows.

`python -m local.gateway` reads deploy/template.yaml, creates its queues on the SQS endpoint, and invokes functions that
run under the Runtime Interface Emulator in containers of their own. It starts, in this order: the Lambda API, which
also reports the progress of the start; the queues and the functions; the event source mappings; and last the function
URL, so that an open port 8000 means that the service answers frames. The gateway waits for what is missing and logs
once what it waits for. If a function cannot init, the gateway exits with the reason, and the container's restart policy
tries again.

The gateway creates the queues through SQS's own API, and not by a configuration of ElasticMQ: the template describes
the queues, the same calls create them on any SQS endpoint, and a changed template changes queues that hold messages.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Final

from aiohttp import web
from botocore.exceptions import BotoCoreError, ClientError

from adapters import json_log
from adapters.models.installed import installed_model
from adapters.queue_sqs import sqs_client
from adapters.settings import (
    DEFAULT_API_PORT,
    DEFAULT_PORT,
    DEFAULT_QUEUE_PORT,
    DEFAULT_REGION,
    FACEQ_API_PORT,
    FACEQ_GALLERY_OF_HOST,
    FACEQ_PORT,
    FACEQ_QUEUE_PORT,
    ModelSettings,
    log_names,
    port,
    template_parameters,
)
from adapters.wiring import checked_gallery
from client import stack_state
from client.stack_state import RunningStack
from local.background_task import cancel
from local.child_process import SupervisedProcess
from local.http_server import LOOPBACK
from local.lambda_service import WAIT_SECONDS, LambdaService
from local.queue_creation import create_queues
from local.runtimes.replica_pool import REFRESH_SECONDS
from local.runtimes.rie import RieRuntime
from local.stack import StackError, gallery_notice, queue_urls, read_template
from pipeline.errors import FaceqError

_log = logging.getLogger("local.gateway")  # `__name__` is `__main__` here

#: The ports that the gateway listens on, in its container.
URL_PORT: Final = 8000
API_PORT: Final = 8001
#: Pause between tries to reach the queue server, seconds.
_RETRY_SECONDS: Final = 1.0


class Gateway:
    """The gateway, from its start to its end.

    Parameters
    ----------
    environ : Mapping of str to str
        AWS_ENDPOINT_URL_SQS: the queues as seen from the gateway. FACEQ_PORT, FACEQ_API_PORT, FACEQ_QUEUE_PORT: the
        host's ports of function URL, Lambda API and queues. COMPOSE_PROJECT_NAME: part of the command that shows the
        logs. FACEQ_PARAMETERS: values for the template's parameters.
    host : str
        Address to listen on.

    """

    def __init__(self, environ: Mapping[str, str], host: str = LOOPBACK) -> None:
        self._region = environ.get("AWS_REGION") or DEFAULT_REGION
        self._sqs_endpoint = environ.get("AWS_ENDPOINT_URL_SQS", "")
        if not self._sqs_endpoint:
            raise StackError("Set AWS_ENDPOINT_URL_SQS to the queue server's address.")
        self._template = read_template(
            template_parameters(environ), self._sqs_endpoint, self._region, log_names=log_names(environ)
        )
        self._settings = ModelSettings.from_environment(environ)
        url, lambda_endpoint, sqs_endpoint = (
            f"http://{LOOPBACK}:{port(environ, name, default)}"
            for name, default in (
                (FACEQ_PORT, DEFAULT_PORT),
                (FACEQ_API_PORT, DEFAULT_API_PORT),
                (FACEQ_QUEUE_PORT, DEFAULT_QUEUE_PORT),
            )
        )
        self.stack = RunningStack(
            pid=0,
            function_url=f"{url}/",
            **queue_urls(self._template, sqs_endpoint),
            region=self._region,
            sqs_endpoint=sqs_endpoint,
            lambda_endpoint=lambda_endpoint,
            model=installed_model(self._settings.model, self._settings.models).id,
            engine=self._settings.engine,
            gallery=environ.get(FACEQ_GALLERY_OF_HOST) or str(self._settings.gallery),
            logs=f"docker compose -p {environ.get('COMPOSE_PROJECT_NAME', 'faceq')} logs",
            runtime=stack_state.CONTAINERS,
        )
        self._runtime = RieRuntime(self._template.functions.values(), notify=notify)
        #: Closed by `stop`: it ends everything in the opposite order of the start.
        self._cleanup = AsyncExitStack()
        self._service = LambdaService(self._template, self._runtime, self._region, self._cleanup, host)
        self._ready = False

    async def start(self) -> None:
        """Start everything; return when the service can answer a frame."""
        service, cleanup = self._service, self._cleanup
        await service.serve_api(
            API_PORT, self.stack.function_url, WAIT_SECONDS, {stack_state.STACK_PATH: self._describe}
        )
        cleanup.push_async_callback(self._runtime.stop)
        await asyncio.gather(self._create_queues(), self._runtime.start())
        self._check_gallery()
        mappings = service.event_source_mappings(self._sqs_endpoint, f"http://{LOOPBACK}:{API_PORT}", notify)
        await mappings.start()
        cleanup.push_async_callback(cancel, asyncio.create_task(self._report_concurrency(mappings)))
        await service.serve_function_url(URL_PORT)
        self._ready = True
        notify(f"faceq is up: {self.stack.function_url}")
        for sentence in self._template.only_on_aws:
            notify(f"only AWS can play: {sentence}")

    async def stop(self) -> None:
        """End everything, in order."""
        await self._cleanup.aclose()

    async def _report_concurrency(self, mappings: SupervisedProcess) -> None:
        """Tell the event source mappings how many replicas exist: with more pollers, received batches would wait."""
        reported: tuple[int | None, dict[str, int]] | None = None
        while True:
            current = (mappings.pid, self._service.concurrency())  # a restarted process needs the report again
            if current != reported:
                mappings.write_line(json.dumps(current[1]))
                reported = current
            await asyncio.sleep(REFRESH_SECONDS)

    async def _create_queues(self) -> None:
        sqs = sqs_client(self._region, self._sqs_endpoint)
        waiting = False
        while True:
            try:
                return await asyncio.to_thread(create_queues, sqs, self._template.queues)
            except (BotoCoreError, ClientError) as error:
                if not waiting:
                    notify(f"Waiting for the queue server at {self._sqs_endpoint}: {error}")
                waiting = True
            await asyncio.sleep(_RETRY_SECONDS)

    def _check_gallery(self) -> None:
        try:
            notice = gallery_notice(checked_gallery(self._settings))
        except FaceqError as error:
            notice = f"{error.message} Until then, frames with faces get the result Error."
        if notice:
            notify(notice)

    async def _describe(self, _request: web.Request) -> web.Response:
        """Answer `faceq status`: the addresses of the stack, and the state of the functions' containers."""
        rows = [
            {
                "function": function,
                "container": await _container(replica.address[0]),
                "state": replica.state,
                "answered": replica.answered,
                "error": replica.error,
            }
            for function, replicas in self._runtime.replicas().items()
            for replica in replicas
        ]
        return web.json_response({"ready": self._ready, "stack": asdict(self.stack), "replicas": rows})


async def _container(address: str) -> str:
    """Return the name that Docker's name server has for the container at an address, the address if it has none."""
    try:
        name, _, _ = await asyncio.to_thread(socket.gethostbyaddr, address)
    except OSError:
        return address
    return name.partition(".")[0]


def notify(sentence: str) -> None:
    """Log a sentence for the user, who finds it with `docker compose logs gateway` or `faceq logs gateway`."""
    _log.info("%s", sentence, stacklevel=2)


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
    json_log.set_up("gateway", sys.stderr)
    try:
        asyncio.run(_run(Gateway(os.environ, arguments.host)))
    except FaceqError as error:
        _log.error("%s", error.message, extra={"code": error.code})
        return 1
    except OSError as error:
        _log.error("%s", error.strerror or error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
