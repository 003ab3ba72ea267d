"""The entry point of a function's container outside of Lambda: start the Runtime Interface Emulator (RIE).

`python -m local.runtimes.rie_entry HANDLER` finds the function of this handler in deploy/template.yaml, sets the
variables that Lambda would set, and execs RIE, which runs `local.runtimes.rie_client`. Variables that are already set
win, so `docker run -e AWS_LAMBDA_FUNCTION_TIMEOUT=5 ...` works; an empty one counts as not set.

Sources: Lambda developer guide, "Working with Lambda environment variables"; for RIE's own variables its source
(cmd/aws-lambda-rie).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from adapters.settings import DEFAULT_REGION, log_names, template_parameters
from local.addresses import read_local_template
from local.runtimes.rie_protocol import rie_timeout
from pipeline.errors import SetupError
from template.model import Function
from template.reader import TEMPLATE_FILE
from template.yaml_nodes import TemplateError

RIE: Final = "/usr/local/bin/aws-lambda-rie"
#: Endpoint of the queues if AWS_ENDPOINT_URL_SQS is not set: the name of the service in docker-compose.yml.
_SQS_ENDPOINT: Final = "http://elasticmq:9324"


def lambda_variables(function: Function, region: str) -> dict[str, str]:
    """Return the variables that a function sees on Lambda: its own and those that Lambda sets."""
    return {
        **function.environment,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(rie_timeout(function.timeout_seconds)),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        # CloudWatch names a stream after the execution environment; here it is named after the container's id.
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{function.name}/{os.uname().nodename}",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        # On AWS these are the role's. No local endpoint checks them.
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "LAMBDA_TASK_ROOT": str(TEMPLATE_FILE.parents[1]),
        "TZ": ":UTC",
    }


def main(arguments: Sequence[str], environ: Mapping[str, str], rie: str = RIE) -> int:
    """Replace this process by RIE. Return an exit code only if that is impossible.

    Parameters
    ----------
    arguments : sequence of str
        The command line: one handler.
    environ : Mapping of str to str
        The environment.
    rie : str
        File of the Runtime Interface Emulator.

    """
    region = environ.get("AWS_REGION") or DEFAULT_REGION
    sqs_endpoint = environ.get("AWS_ENDPOINT_URL_SQS") or _SQS_ENDPOINT
    try:
        template = read_local_template(template_parameters(environ), region, sqs_endpoint, log_names=log_names(environ))
    except (TemplateError, SetupError) as error:
        sys.stderr.write(f"faceq: deploy/template.yaml: {error}\n")
        return 1
    functions = {function.handler: function for function in template.functions.values()}
    if len(arguments) != 1 or arguments[0] not in functions:
        sys.stderr.write(f"faceq: the container's command must be a function's handler: {' or '.join(functions)}\n")
        return 2
    variables = {**lambda_variables(functions[arguments[0]], region), "AWS_ENDPOINT_URL_SQS": _SQS_ENDPOINT}
    variables |= {name: value for name, value in environ.items() if value or name not in variables}
    command = [rie, sys.executable, "-m", "local.runtimes.rie_client", *arguments]
    try:
        os.execve(rie, command, variables)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(
            f"faceq: the Runtime Interface Emulator {rie} cannot run: {error.strerror}. "
            "Build the image for this machine's architecture: docker compose build\n"
        )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
