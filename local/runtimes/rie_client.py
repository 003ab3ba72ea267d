"""What RIE runs in a function's container: AWS's runtime client, extended to report what RIE hides.

`python -m local.runtimes.rie_client MODULE.FUNCTION` runs awslambdaric's own loop with its own Runtime API client, of
which three calls are extended. An event that `local.runtimes.rie` sends comes with an `Order` (`rie_protocol.py`). Its
handler therefore sees the driver's request id and trace id, and its answer begins with a head line that contains the
outcome and the end of the log. Requests of other senders, such as a curl to RIE's port, stay unchanged.

The log is read from the file descriptors 1 and 2, so it includes lines of C code. Both become a pipe, and a thread
passes its content on to the container's output immediately. The cost is a few system calls for each request, and one
small process, which passes on the last lines of a function that died (a thread would die with it).
"""

import atexit
import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Final

from awslambdaric import bootstrap
from awslambdaric.lambda_config import LambdaConfigProvider
from awslambdaric.lambda_runtime_client import InvocationRequest, LambdaRuntimeClient

from local.runtimes.limits import LOG_TAIL_BYTES, MAX_RESPONSE_BYTES, response_too_large
from local.runtimes.rie_protocol import (
    ERROR,
    OK,
    OTHER,
    Order,
    fits_with_head,
    read_order,
    with_head,
)

_PIPE_BYTES: Final = 65536


class _Output:
    """Passes standard output and standard error on as they come, and keeps the end of the current request's log."""

    def __init__(self) -> None:
        self._target = os.dup(1)
        self._pipe, writer = os.pipe()
        os.set_blocking(self._pipe, False)
        self._start_last_reader()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        self._tail = bytearray()
        self._lock = threading.Lock()
        threading.Thread(target=self._pass_on, daemon=True).start()
        atexit.register(self.drain)

    def begin(self, request_id: str) -> None:
        """Start a request's log."""
        self.drain()
        self._tail.clear()
        os.write(1, f"START RequestId: {request_id} Version: $LATEST\n".encode())

    def end(self, request_id: str) -> bytes:
        """Return the end of a request's log, which includes everything that was written until now."""
        self.drain()
        line_end = "" if self._tail.endswith(b"\n") else "\n"
        os.write(1, f"{line_end}END RequestId: {request_id}\n".encode())
        self.drain()
        return bytes(self._tail)

    def drain(self) -> None:
        """Pass on what the pipe contains now, at most 256 KiB: a thread that never pauses must not delay the answer."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError, AttributeError):  # closed or removed by the function
                stream.flush()
        for _ in range(4):
            if not self._read():
                break

    def _pass_on(self) -> None:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        while True:
            poll.poll()
            self._read()

    def _read(self) -> bool:
        with self._lock:
            try:
                content = os.read(self._pipe, _PIPE_BYTES)
            except BlockingIOError:
                return False
            # awslambdaric separates the lines of an error by carriage returns, which hide them on a terminal.
            content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            _write(self._target, content)
            self._tail += content
            del self._tail[:-LOG_TAIL_BYTES]
        return bool(content)

    def _start_last_reader(self) -> None:
        """Fork a process that waits for the end of this one, kills its children and passes on the rest of the pipe."""
        end_reader, end_writer = os.pipe()  # the writing end stays open as long as this process lives
        group = os.getpgrp() if os.getpgrp() == os.getpid() else None
        if os.fork():
            os.close(end_reader)
            os.register_at_fork(after_in_child=lambda: os.close(end_writer))
            return
        os.setsid()  # RIE kills the function's process group (measured)
        os.close(end_writer)
        os.read(end_reader, 1)
        with contextlib.suppress(ProcessLookupError):
            if group is not None:  # processes that the function started end with it, as on Lambda
                os.killpg(group, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            while content := os.read(self._pipe, _PIPE_BYTES):
                _write(self._target, content)
        os._exit(0)


def _write(target: int, content: bytes) -> None:
    with contextlib.suppress(OSError):  # a container whose output is not read must still answer its requests
        while content:
            content = content[os.write(target, content) :]


class _RuntimeApiClient(LambdaRuntimeClient):  # type: ignore[misc] # awslambdaric has no types
    """awslambdaric's client of the Runtime API, extended to read orders and to write head lines."""

    def __init__(self, address: str, use_thread: bool, output: _Output) -> None:
        super().__init__(address, use_thread)
        self._output = output
        self._function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
        self._order: Order | None = None
        self._rie_id = ""

    def wait_next_invocation(self) -> InvocationRequest:
        while True:
            request = super().wait_next_invocation()
            self._order = order = read_order(request.client_context)
            if order is None:
                return request
            self._rie_id = request.invoke_id
            if order.warm_up or order.function != self._function:
                outcome = OK if order.function == self._function else OTHER
                body = with_head(order.request_id, outcome, self._function.encode())
                super().post_invocation_result(self._rie_id, body, invocation_id=request.invocation_id)
                continue
            request.invoke_id = order.request_id
            request.x_amzn_trace_id = order.trace_id
            request.client_context = order.client_context
            if order.timeout_seconds is not None:
                # Rounded down, because the function must never see more time than its timeout.
                request.deadline_time_in_ms = int((time.time() + order.timeout_seconds) * 1000)
                # The kernel's timer and the default action of its signal end even code that never releases the GIL.
                signal.setitimer(signal.ITIMER_REAL, order.timeout_seconds)
            self._output.begin(order.request_id)
            return request

    def post_invocation_result(
        self,
        invoke_id: str,
        result_data: str | bytes,
        content_type: str = "application/json",
        invocation_id: str | None = None,
    ) -> None:
        order = self._order
        if order is None:
            super().post_invocation_result(invoke_id, result_data, content_type, invocation_id)
            return
        body = result_data if isinstance(result_data, bytes) else result_data.encode()
        if len(body) > MAX_RESPONSE_BYTES:
            # RIE's own error does not include the size. (measured)
            self._post_error(order, json.dumps(response_too_large(len(body))), "", invocation_id)
            return
        body = with_head(order.request_id, OK, body, self._end(order))
        super().post_invocation_result(self._rie_id, body, content_type, invocation_id)

    def post_invocation_error(
        self, invoke_id: str, error_response_data: str, xray_fault: str, invocation_id: str | None = None
    ) -> None:
        if self._order is None:
            super().post_invocation_error(invoke_id, error_response_data, xray_fault, invocation_id)
            return
        report = error_response_data.encode()
        if not fits_with_head(report):  # without a head line it would look like a result
            error_response_data = json.dumps(response_too_large(len(report)))
        self._post_error(self._order, error_response_data, xray_fault, invocation_id)

    def _end(self, order: Order) -> bytes:
        """Stop the timer and return the end of the log."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        return self._output.end(order.request_id)

    def _post_error(self, order: Order, report: str, xray_fault: str, invocation_id: str | None) -> None:
        body = with_head(order.request_id, ERROR, report.encode(), self._end(order))
        super().post_invocation_error(self._rie_id, body.decode(), xray_fault, invocation_id)


def main() -> None:
    """Serve the handler that the command line names until RIE ends."""
    config = LambdaConfigProvider(sys.argv)
    bootstrap.run(config.handler, _RuntimeApiClient(config.api_address, config.use_thread_polling, _Output()))


if __name__ == "__main__":
    main()
