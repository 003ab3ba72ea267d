"""What Lambda offers around the functions, whatever runs them: function URLs, Lambda API, event source mappings.

The supervisor puts it around processes, the gateway around containers.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Final

from aiohttp import web

from local import event_source_mapping, function_url, lambda_api
from local.addresses import ACCOUNT
from local.child_process import SupervisedProcess
from local.http_server import LOOPBACK, listen
from local.runtimes.function_runtime import FunctionRuntime
from local.stack import StackError
from template.model import ServiceTemplate

#: How long a frame waits for a free execution environment before the function URL answers 429, seconds. AWS would start
#: another environment instead; a laptop has only so many processors, so a burst waits as long as one frame may take.
WAIT_SECONDS: Final = 30.0


class LambdaService:
    """The servers around a runtime, and the process of the event source mappings.

    Parameters
    ----------
    template : ServiceTemplate
        The functions, their URLs and their triggers.
    runtime : FunctionRuntime
        Runs these functions.
    region : str
        The AWS region that ARNs name.
    cleanup : AsyncExitStack
        Ends everything that is started here, in the opposite order, when it is closed.
    host : str
        Address that the servers listen on.

    """

    def __init__(
        self,
        template: ServiceTemplate,
        runtime: FunctionRuntime,
        region: str,
        cleanup: AsyncExitStack,
        host: str = LOOPBACK,
    ) -> None:
        self._template = template
        self._runtime = runtime
        self._region = region
        self._cleanup = cleanup
        self._host = host

    async def serve_api(
        self,
        port: int,
        url: str,
        wait_seconds: float = 0.0,
        routes: Mapping[str, Callable[[web.Request], Awaitable[web.Response]]] = MappingProxyType({}),
    ) -> None:
        """Serve the Lambda API.

        Parameters
        ----------
        port : int
        url : str
            The address of the function URL, which the API reports.
        wait_seconds : float
            Longest wait of a synchronous invocation for a free execution environment; AWS does not wait.
        routes : Mapping of str to callable
            Handlers of further GET requests, by path.

        Raises
        ------
        OSError
            The port is taken.

        """
        urls = {each.function: url for each in self._template.function_urls}
        api = lambda_api.application(
            self._runtime, self._template, urls, region=self._region, account=ACCOUNT, wait_seconds=wait_seconds
        )
        for path, handler in routes.items():
            api.router.add_get(path, handler)
        await self._serve(api, port)

    async def serve_function_url(self, port: int) -> None:
        """Serve the function URL. Raises StackError if the template has several, OSError if the port is taken."""
        urls = self._template.function_urls
        if len(urls) > 1:  # AWS gives each a host of its own
            functions = ", ".join(url.function for url in urls)
            raise StackError(
                f"The template has {len(urls)} function URLs (of {functions}), and this machine serves one. "
                "Keep the URL that takes the frames."
            )
        for url in urls:
            await self._serve(function_url.application(self._runtime, url.function, WAIT_SECONDS), port)

    async def _serve(self, application: web.Application, port: int) -> None:
        runner, _ = await listen(application, port, self._host)
        self._cleanup.push_async_callback(runner.cleanup)

    def concurrency(self) -> dict[str, int]:
        """Return how many execution environments each function may have now."""
        return {name: self._runtime.concurrency(name) for name in self._template.functions}

    def event_source_mappings(
        self, sqs_endpoint: str, lambda_endpoint: str, notify: Callable[[str], None], log: Path | None = None
    ) -> SupervisedProcess:
        """Return the process that emulates the event source mappings; the caller starts it.

        Parameters
        ----------
        sqs_endpoint, lambda_endpoint : str
            Where the process reaches the queues and the functions.
        notify : callable
            Takes a sentence for the user, when the process dies.
        log : Path or None
            Its log file; None for our own standard error.

        """
        process = SupervisedProcess(
            "event-source-mapping",
            event_source_mapping.command(self._template.event_source_mappings, self.concurrency()),
            {"AWS_ENDPOINT_URL_SQS": sqs_endpoint, "AWS_ENDPOINT_URL_LAMBDA": lambda_endpoint},
            log,
            notify,
        )
        self._cleanup.push_async_callback(process.stop)
        return process
