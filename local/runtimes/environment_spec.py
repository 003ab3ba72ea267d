"""What all execution environments of one function have in common, and the variables that their processes get."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from template.model import Function

_SOURCES: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class EnvironmentSpec:
    """What all environments of one function have in common.

    Parameters
    ----------
    function : Function
        The function, as the template describes it.
    arn : str
        Its ARN.
    region : str
        Its AWS region.
    task_root : Path
        Where its code is: the working directory.
    environment : Mapping of str to str
        Variables beside those that Lambda sets.
    client : str
        Module that runs its handler.
    next_event_seconds : float
        How long to wait for a process to ask for its next event before starting another environment.

    """

    function: Function
    arn: str
    region: str
    task_root: Path
    environment: Mapping[str, str]
    client: str
    next_event_seconds: float

    def variables(self, stream: str, api_address: str, scratch: str) -> dict[str, str]:
        """Return the variables of one process.

        Source: Lambda developer guide, "Working with Lambda environment variables".

        Parameters
        ----------
        stream : str
            Its log stream.
        api_address : str
            Its Runtime API, host:port.
        scratch : str
            Its folder for temporary files.

        """
        function = self.function
        return {
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            **self.environment,
            "_HANDLER": function.handler,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EXECUTION_ENV": "AWS_Lambda_Image",  # what functions from images see
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "AWS_LAMBDA_RUNTIME_API": api_address,
            # Placeholders. No local endpoint checks them, and a function never gets the user's real keys.
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "LAMBDA_TASK_ROOT": str(self.task_root),
            "LAMBDA_RUNTIME_DIR": str(_SOURCES),  # where the runtime client is
            "PYTHONPATH": str(_SOURCES),
            "TMPDIR": scratch,
        }
