# One image for both functions; the command selects the function. Outside AWS, the Runtime Interface Emulator runs it.
#
#   faceq image build                                         with labels that describe the contents
#   docker build --target function -t faceq-function .        the same image without the labels
#
# Build arguments
#   MODEL        auto, vggface2, casia-webface, dlib, stand-in, or a weight file such as models/mine.pt. Weight files in
#                models/ beside this file are used instead of a download.
#   ENGINE       onnx, or torch for facenet-pytorch as in the original service.
#   TORCH_INDEX  for ENGINE=torch: the package index with PyTorch's CPU wheels. Wheels in wheels/ have precedence.
#   VERSION, REVISION, MODEL_ID, MODEL_SHA256, PREPROCESSING   labels; `faceq image build` sets them.

FROM python:3.11-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PATH=/opt/faceq/venv/bin:$PATH


# The emulator, extracted from the wheel of aws-sam-cli.
FROM base AS emulator
ARG TARGETARCH
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip download --quiet --no-deps --constraint constraints.txt --dest /wheel aws-sam-cli \
    && python -m zipfile -e /wheel/*.whl /wheel/content \
    && case "${TARGETARCH:-$(uname -m)}" in \
           amd64 | x86_64) arch=x86_64 ;; \
           arm64 | aarch64) arch=arm64 ;; \
           *) echo "faceq: Lambda does not support ${TARGETARCH}: build for linux/amd64 or linux/arm64" >&2; exit 1 ;; \
       esac \
    && install -m 755 "/wheel/content/samcli/local/rapid/aws-lambda-rie-$arch" /aws-lambda-rie


# The networks: the same `faceq models get` as on a laptop. Downloads are cached between builds.
FROM base AS models
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m venv /opt/faceq/venv \
    && pip --python /opt/faceq/venv/bin/python install --quiet --constraint constraints.txt '.[models,dlib]'
COPY pipeline pipeline
COPY template template
COPY adapters adapters
COPY cli cli
COPY constraints.txt model[s]/*.pt models/
ARG MODEL=auto
ARG ENGINE=onnx
ENV FACEQ_MODELS_DIR=/cache/models
RUN --mount=type=cache,target=/cache,sharing=locked \
    mkdir -p /cache/models/files /opt/faceq/models && rm models/constraints.txt \
    && find models -name '*.pt' -exec cp {} /cache/models/files/ ';' \
    && if ! python -m cli.main models get "$MODEL" 2>/error; then \
           sed 's| into /cache/models/files.*| into models/ beside the Dockerfile and build again.|' /error >&2; exit 1; \
       fi \
    && python -m cli.main models bundle /opt/faceq/models --model "$MODEL" --engine "$ENGINE" > /id \
    && cp /id /opt/faceq/models/id && cp "/opt/faceq/models/$(cat /id)/manifest.json" /


# The description that `faceq image build` makes labels from: docker buildx build --target manifest --output FOLDER .
FROM scratch AS manifest
COPY --from=models /manifest.json /


# The packages. Removed are pip, tests, the descriptions of AWS services that faceq never calls, headers, ONNX Runtime's
# tools, and its C library, which is also linked into its Python module.
FROM base AS packages
WORKDIR /build
COPY pyproject.toml constraints.txt ./
COPY --from=models /opt/faceq/models/id ./
COPY constraints.txt wheel[s]/*.whl wheels/
ARG ENGINE=onnx
ARG TORCH_INDEX=
RUN --mount=type=cache,target=/root/.cache/pip \
    touch README.md && python -m venv --without-pip /opt/faceq/venv \
    && pip="pip --python /opt/faceq/venv/bin/python" && install="$pip install --quiet --constraint constraints.txt" \
    && if [ "$(cat id)" = dlib ]; then $install '.[dlib]'; else $install .; fi \
    && cd /opt/faceq/venv/lib/python3.11/site-packages \
    && if [ "$ENGINE" = torch ]; then \
           cd /build \
           && if ls wheels/torch-*.whl >/dev/null 2>&1; then from="--no-index --find-links wheels"; \
              elif [ -n "$TORCH_INDEX" ]; then from="--index-url $TORCH_INDEX"; \
              else echo "faceq: ENGINE=torch needs PyTorch's CPU wheels: put them into wheels/ beside the Dockerfile," \
                        "or name their index with --build-arg TORCH_INDEX=URL." >&2; exit 1; fi \
           && $install --no-deps $from torch && cd - >/dev/null \
           && if grep -qi '^Requires-Dist: *\(nvidia\|cuda\|triton\)' torch-*.dist-info/METADATA; then \
                  echo "faceq: this torch is a CUDA build of several GB: use a CPU wheel (2.x.y+cpu)." >&2; exit 1; fi \
           && cd /build && $install torch requests \
           && $install --find-links wheels --no-deps torchvision facenet-pytorch && cd - >/dev/null \
           && $pip uninstall --quiet --yes onnxruntime flatbuffers protobuf setuptools \
           && rm -rf torch/include torch/share torch/test torch/lib/*.a \
           && find torch/bin -type f ! -name torch_shm_manager -delete; \
       fi \
    && find . -depth -type d -name tests -exec rm -r {} + \
    && find . -name '*.pyi' -delete \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d \
           ! -name sqs ! -name s3 ! -name sts ! -name lambda -exec rm -r {} + \
    && rm -rf numpy/f2py numpy/distutils onnxruntime/backend onnxruntime/datasets onnxruntime/quantization \
           onnxruntime/tools onnxruntime/transformers onnxruntime/capi/libonnxruntime.so.*


# The code, compiled here: on a read-only root, Python cannot store compiled code.
FROM base AS code
WORKDIR /var/task
COPY deploy/entrypoint.sh deploy/template.yaml deploy/
COPY local/__init__.py local/addresses.py local/
COPY local/runtimes/__init__.py local/runtimes/limits.py local/runtimes/rie_entry.py local/runtimes/rie_client.py \
     local/runtimes/rie_protocol.py local/runtimes/
COPY adapters adapters
COPY template template
COPY pipeline pipeline
RUN python -m compileall -q .


FROM base AS function
COPY --from=emulator /aws-lambda-rie /usr/local/bin/
COPY --from=packages /opt/faceq/venv /opt/faceq/venv
COPY --from=models /opt/faceq/models /opt/faceq/models
# Compile what the functions import from Python's own library, which this base image ships uncompiled. Measured: this
# saves 0.7 s of processor time at each cold start.
ARG ENGINE=onnx
RUN mkdir /opt/faceq/gallery \
    && case "$ENGINE" in onnx) engine=onnxruntime ;; *) engine=torch ;; esac \
    && ORT_DISABLE_TELEMETRY=1 python -c "import $engine, difflib, PIL.Image, aws_lambda_powertools.logging; \
        import awslambdaric.bootstrap, boto3, yaml; boto3.client('sqs', region_name='us-east-1')"
COPY --from=code /var/task /var/task
WORKDIR /var/task
ENV FACEQ_ENGINE=$ENGINE FACEQ_MODELS_DIR=/opt/faceq/models FACEQ_GALLERY_DIR=/opt/faceq/gallery PYTHONUNBUFFERED=1
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


# The gateway's packages, separate from the function's image, so that a code change does not install them again.
FROM base AS gateway-packages
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --constraint constraints.txt --target /opt/faceq/gateway $(python -c "import tomllib; \
        print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['gateway'])")


# The gateway between clients and the functions' containers. It is never deployed to AWS.
FROM function AS gateway
COPY --from=gateway-packages /opt/faceq/gateway /opt/faceq/gateway
ENV PYTHONPATH=/opt/faceq/gateway
COPY client client
COPY local local
EXPOSE 8000 8001
ENTRYPOINT ["python", "-m", "local.gateway"]
