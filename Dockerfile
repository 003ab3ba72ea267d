# One image for both functions; the command picks one. Beside AWS it runs under the Runtime Interface Emulator.
#
#   docker build --target function -t faceq-function .
#
# Build arguments
#   MODEL        auto, vggface2, casia-webface, dlib, stand-in, or a weight file such as models/mine.pt. Files that are in
#                models/ beside this file are taken from there instead of the network.
#   ENGINE       onnx, or torch for facenet-pytorch as in the original service.
#   TORCH_INDEX  for ENGINE=torch: the package index with PyTorch's CPU wheels. Wheels in wheels/ are taken first.
#   VERSION, REVISION, MODEL_ID, MODEL_SHA256, PREPROCESSING   labels; `faceq image build` fills them in.

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/faceq/venv/bin:$PATH


# The emulator, from the wheel that carries it.
FROM base AS emulator
ARG TARGETARCH
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip download --quiet --no-deps --constraint constraints.txt --dest /wheel aws-sam-cli \
    && python -m zipfile -e /wheel/*.whl /wheel/content \
    && case "${TARGETARCH:-$(uname -m)}" in \
           amd64 | x86_64) arch=x86_64 ;; \
           arm64 | aarch64) arch=arm64 ;; \
           *) echo "Lambda has no ${TARGETARCH}: build for linux/amd64 or linux/arm64" >&2; exit 1 ;; \
       esac \
    && install -m 755 "/wheel/content/samcli/local/rapid/aws-lambda-rie-$arch" /aws-lambda-rie


# The networks: the same `faceq models get` as on a laptop. What was fetched once is kept between builds.
FROM base AS models
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m venv /opt/faceq/venv \
    && pip --python /opt/faceq/venv/bin/python install --quiet --constraint constraints.txt '.[models,dlib]'
COPY pipeline pipeline
COPY adapters adapters
COPY cli cli
COPY constraints.txt model[s]/*.pt models/
ARG MODEL=auto
ARG ENGINE=onnx
ENV FACEQ_MODELS_DIR=/cache/models
RUN --mount=type=cache,target=/cache,sharing=locked \
    mkdir -p /cache/models/files /opt/faceq/models && rm models/constraints.txt \
    && find models -name '*.pt' -exec cp {} /cache/models/files/ ';' \
    && { python -m cli.main models get "$MODEL" \
         || { echo "The image needs this file: put it into models/ beside the Dockerfile and build again." >&2; exit 1; }; } \
    && python -m cli.main models bundle /opt/faceq/models --model "$MODEL" --engine "$ENGINE" > /id \
    && cp /id /opt/faceq/models/id


# The packages. Cut away: pip, tests, and what AWS's client knows of services that faceq never calls.
FROM base AS packages
WORKDIR /build
COPY pyproject.toml constraints.txt ./
COPY --from=models /opt/faceq/models/id ./
COPY constraints.txt wheel[s]/*.whl wheels/
ARG ENGINE=onnx
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m venv --without-pip /opt/faceq/venv \
    && install="pip --python /opt/faceq/venv/bin/python install --quiet --constraint constraints.txt" \
    && if [ "$(cat id)" = dlib ]; then $install '.[dlib]'; else $install .; fi \
    && if [ "$ENGINE" = torch ]; then \
           if ls wheels/torch-*.whl >/dev/null 2>&1; then from="--find-links wheels"; \
           elif [ -n "$TORCH_INDEX" ]; then from="--extra-index-url $TORCH_INDEX"; \
           else echo "ENGINE=torch needs --build-arg TORCH_INDEX=<PyTorch's index of CPU wheels>, or its wheels in wheels/" >&2; exit 1; fi \
           && $install $from torch requests \
           && $install $from --no-deps torchvision facenet-pytorch \
           && pip --python /opt/faceq/venv/bin/python uninstall --quiet --yes onnxruntime; \
       fi \
    && cd /opt/faceq/venv/lib/python3.11/site-packages \
    && find . -depth -type d -name tests -exec rm -r {} + \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d \
           ! -name sqs ! -name s3 ! -name sts ! -name lambda -exec rm -r {} +


FROM base AS function
COPY --from=emulator /aws-lambda-rie /usr/local/bin/
COPY --from=packages /opt/faceq/venv /opt/faceq/venv
COPY --from=models /opt/faceq/models /opt/faceq/models
WORKDIR /var/task
ARG ENGINE=onnx
ENV FACEQ_ENGINE=$ENGINE FACEQ_MODELS_DIR=/opt/faceq/models FACEQ_GALLERY_DIR=/opt/faceq/gallery PYTHONUNBUFFERED=1
COPY deploy/entrypoint.sh deploy/template.yaml deploy/
COPY local/__init__.py local/template.py local/
COPY local/runtimes/__init__.py local/runtimes/replica.py local/runtimes/rie_*.py local/runtimes/
COPY adapters adapters
COPY pipeline pipeline
RUN mkdir /opt/faceq/gallery && python -m compileall -q pipeline adapters local
ARG VERSION=
ARG REVISION=
ARG MODEL_ID=
ARG MODEL_SHA256=
ARG PREPROCESSING=
LABEL org.opencontainers.image.title=faceq \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION \
      faceq.engine=$ENGINE \
      faceq.model=$MODEL_ID \
      faceq.model.sha256=$MODEL_SHA256 \
      faceq.preprocessing=$PREPROCESSING
USER 65532:65532
ENTRYPOINT ["/var/task/deploy/entrypoint.sh"]


# What stands between clients and the functions' containers. It never goes to AWS.
FROM function AS gateway
USER 0
COPY pyproject.toml constraints.txt /build/
RUN --mount=type=cache,target=/root/.cache/pip \
    cd /build && touch README.md \
    && pip --python /opt/faceq/venv/bin/python install --quiet --constraint constraints.txt '.[gateway]'
COPY local local
RUN python -m compileall -q local
USER 65532:65532
EXPOSE 8000 8001
ENTRYPOINT ["python", "-m", "local.gateway"]
