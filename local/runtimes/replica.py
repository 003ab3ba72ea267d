"""What a function's container runs where no Lambda service is: the Runtime Interface Emulator, set as on AWS.

`python -m local.runtimes.replica HANDLER` finds the function of this handler in deploy/template.yaml, sets the
variables that Lambda would set, and becomes the emulator, which runs `local.runtimes.rie_client`. What is set already
stays: `docker run -e AWS_LAMBDA_FUNCTION_TIMEOUT=5 ...` is obeyed.

Variables: Lambda developer guide, "Working with Lambda environment variables"; those of the emulator as its source
reads them (cmd/aws-lambda-rie).
"""

import os
import sys
from typing import Final

from adapters.settings import DEFAULT_REGION, template_parameters
from local.addresses import read_local_template
from local.runtimes.rie_protocol import rie_timeout
from pipeline.errors import SetupError
from template.model import Function
from template.reader import TEMPLATE_FILE
from template.yaml_nodes import TemplateError

EMULATOR: Final = "/usr/local/bin/aws-lambda-rie"
#: Where the containers' queues are, unless AWS_ENDPOINT_URL_SQS says else: the service's name in docker-compose.yml.
_SQS_ENDPOINT: Final = "http://elasticmq:9324"


def variables(function: Function, region: str) -> dict[str, str]:
    """Return what Lambda sets for a function, its own variables included."""
    return {
        **function.environment,
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(rie_timeout(function)),
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
        # The container's id, as a CloudWatch stream has the execution environment's.
        "AWS_LAMBDA_LOG_STREAM_NAME": f"{function.name}/{os.uname().nodename}",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        # A role's on AWS; here nobody looks.
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "LAMBDA_TASK_ROOT": str(TEMPLATE_FILE.parents[1]),
        "TZ": ":UTC",
    }


def main() -> int:
    """Become the emulator; return only if that cannot be."""
    handlers = sys.argv[1:]
    region = os.environ.get("AWS_REGION") or DEFAULT_REGION
    sqs_endpoint = os.environ.get("AWS_ENDPOINT_URL_SQS") or _SQS_ENDPOINT
    try:
        played = read_local_template(template_parameters(os.environ), region, sqs_endpoint)
    except (TemplateError, SetupError) as error:
        sys.stderr.write(f"faceq: deploy/template.yaml: {error}\n")
        return 1
    functions = {function.handler: function for function in played.functions.values()}
    if len(handlers) != 1 or handlers[0] not in functions:
        sys.stderr.write(f"faceq: name the function's handler as the command: {' or '.join(functions)}\n")
        return 2
    environ = {**variables(functions[handlers[0]], region), "AWS_ENDPOINT_URL_SQS": _SQS_ENDPOINT, **os.environ}
    command = [EMULATOR, sys.executable, "-m", "local.runtimes.rie_client", *handlers]
    try:
        os.execve(EMULATOR, command, environ)  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(
            f"faceq: the image's emulator {EMULATOR} cannot run: {error.strerror}. Build for this machine.\n"
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
