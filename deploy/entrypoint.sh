#!/bin/sh
# Every container of the image runs this script, with the handler as its argument.
set -eu
: "${FACEQ_MODEL:=$(cat "$FACEQ_MODELS_DIR/id")}"
export FACEQ_MODEL
# Lambda sets this variable to the address of its Runtime API. Elsewhere the Runtime Interface Emulator provides it.
if [ -n "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    exec python -m awslambdaric "$@"
fi
exec python -m local.runtimes.rie_entry "$@"
