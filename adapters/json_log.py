"""Log lines as JSON: one object a line, the same for the functions and for the processes that emulate AWS around them.

Modules log with `logging.getLogger(__name__)`; a program calls `set_up` once when it starts. The lines are those of
Powertools for AWS Lambda, whose Logger also follows the level that Lambda's advanced logging controls set
(`AWS_LAMBDA_LOG_LEVEL`). Importing its Logger takes no longer than importing its formatter alone, 30 ms, because the
package imports the Logger itself. `Logger.inject_lambda_context` is not used: its five keys would add some 250 bytes to
each line, and CloudWatch is paid by the byte.
"""

import logging
import sys
from typing import TextIO

from aws_lambda_powertools import Logger

#: Our packages that log; `cli` talks to the user instead.
_PACKAGES = ("pipeline", "template", "adapters", "client", "local", "deploy")


def set_up(service: str, stream: TextIO | None = None) -> Logger:
    """Write what our packages log from level INFO on as JSON lines. A later call replaces an earlier one.

    A line has the keys `level`, `location`, `message`, `timestamp` and `service`, those passed as `extra={...}`, and
    for an exception `exception`, `exception_name` and `stack_trace`. Under Lambda it also has `xray_trace_id`.

    Parameters
    ----------
    service : str
        What the program is, for example `face-detection`: the value of the key `service`.
    stream : text file, optional
        By default standard output as it is now, where Lambda collects lines.

    Returns
    -------
    Logger
        Its `append_keys` adds keys to all later lines of the program.

    """
    log = Logger(service=service, level="INFO")
    handler = log.registered_handler
    if isinstance(handler, logging.StreamHandler):
        handler.setStream(stream or sys.stdout)  # the Logger of an earlier call keeps its stream otherwise
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(log.log_level)
        logger.handlers = [handler]
        logger.propagate = (
            False  # Lambda's runtime client handles the root logger's lines: it would repeat each as text
        )
    return log
