"""What a Lambda runtime imports: one module a function, each loading only its own model."""

import logging
import sys

from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter


def log_json(function: str) -> None:
    """Write the pipeline's log as one JSON object a line on standard output, where Lambda collects it."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(LambdaPowertoolsFormatter(service=function))
    for name in ("pipeline", "adapters"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False  # the runtime client's own handler would write each line again as text
