#!/bin/sh
# What every container of the image runs, with the handler as its argument.
set -eu
: "${FACEQ_MODEL:=$(cat "$FACEQ_MODELS_DIR/id")}"
export FACEQ_MODEL
# Lambda sets this variable: its service is there. Elsewhere the Runtime Interface Emulator plays it.
if [ -n "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    exec python -m awslambdaric "$@"
fi
exec python -m local.runtimes.rie_entry "$@"
