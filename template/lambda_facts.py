"""Facts of AWS Lambda that the code of several packages needs, each with its source.

The functions import this file in their init phase, so it imports nothing.
"""

from typing import Final

#: Names that Lambda sets itself and refuses in a function's environment.
#: (Lambda developer guide, "Working with Lambda environment variables", defined runtime variables)
RESERVED_VARIABLES: Final = frozenset(
    {
        "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_RUNTIME_API",
        "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
    }
)  # fmt: skip

#: A Lambda function has one virtual processor per 1,769 MB (AWS Lambda Developer Guide, "Configure Lambda function
#: memory").
MB_PER_PROCESSOR: Final = 1769

#: Most bytes that the names and values of a function's variables have together.
#: (Lambda quotas, "Environment variables")
MAX_ENVIRONMENT_BYTES: Final = 4096

#: Most messages in one receive, or in one batch of sends, deletes or visibility changes. (SQS API reference)
SQS_BATCH: Final = 10

#: Most messages of a batch without a batching window. (Lambda API reference, CreateEventSourceMapping, BatchSize)
MAX_UNBUFFERED_BATCH: Final = 10

#: Most memory and longest timeout of a function. (Lambda quotas)
MAX_MEMORY_MB: Final = 10_240
MAX_TIMEOUT_SECONDS: Final = 900
