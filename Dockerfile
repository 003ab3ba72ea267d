# One image for both functions; the command picks one. Beside AWS it runs under the Runtime Interface Emulator.
#
#   faceq image build                                         with labels that say what is in it
#   docker build --target function -t faceq-function .        the same without
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
           *) echo "faceq: Lambda has no ${TARGETARCH}: build for linux/amd64 or linux/arm64" >&2; exit 1 ;; \
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
    && if ! python -m cli.main models get "$MODEL" 2>/said; then \
           sed 's| into /cache/models/files.*| into models/ beside the Dockerfile and build again.|' /said >&2; exit 1; \
       fi \
    && python -m cli.main models bundle /opt/faceq/models --model "$MODEL" --engine "$ENGINE" > /id \
    && cp /id /opt/faceq/models/id && cp "/opt/faceq/models/$(cat /id)/manifest.json" /


# What the labels are taken from: docker buildx build --target manifest --output FOLDER .
FROM scratch AS manifest
COPY --from=models /manifest.json /


# The packages. Cut away: pip, tests, what AWS's client knows of services that faceq never calls, headers, and ONNX
# Runtime's tools and its library for C, for Python's module has all of it in itself.
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
                  echo "faceq: this torch is a CUDA build of several GB: take a CPU wheel (2.x.y+cpu)." >&2; exit 1; fi \
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


# The code, compiled here: on a read-only root Python cannot keep what it compiles.
FROM base AS code
WORKDIR /var/task
COPY deploy/entrypoint.sh deploy/template.yaml deploy/
COPY local/__init__.py local/addresses.py local/
COPY local/runtimes/__init__.py local/runtimes/replica.py local/runtimes/rie_*.py local/runtimes/
COPY adapters adapters
COPY template template
COPY pipeline pipeline
RUN python -m compileall -q .


FROM base AS function
COPY --from=emulator /aws-lambda-rie /usr/local/bin/
COPY --from=packages /opt/faceq/venv /opt/faceq/venv
COPY --from=models /opt/faceq/models /opt/faceq/models
# What the functions import of Python's own library, which comes without its compiled form: 0.7 s of a cold start.
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


# The gateway's packages, apart from the function's image, so that changed code does not install them again.
FROM base AS gateway-packages
COPY pyproject.toml constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --quiet --constraint constraints.txt --target /opt/faceq/gateway $(python -c "import tomllib; \
        print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['gateway'])")


# What stands between clients and the functions' containers. It never goes to AWS.
FROM function AS gateway
COPY --from=gateway-packages /opt/faceq/gateway /opt/faceq/gateway
ENV PYTHONPATH=/opt/faceq/gateway
COPY client client
COPY local local
EXPOSE 8000 8001
ENTRYPOINT ["python", "-m", "local.gateway"]
