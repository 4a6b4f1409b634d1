# The server with the built-in networks, on the CPU.
#
#   docker build -t cutaway:0.1.0 .
#   docker run --rm --read-only -p 50051:50051 -p 9464:9464 cutaway:0.1.0
#
# Flags of `cutaway serve` go behind the image's name; each has an environment variable too (docs/server.md).

FROM python:3.11-slim-bookworm AS build
# Where PyTorch's CPU wheels come from. The default wheel for Linux brings some GB of CUDA.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY client/python client/python
COPY server server
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN python -m venv /opt/cutaway \
    && wheel="$(find /wheels -name 'cutaway-*.whl')" \
    && /opt/cutaway/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX_URL}" --constraint constraints.txt "${wheel}[server]"

FROM python:3.11-slim-bookworm
COPY --from=build /opt/cutaway /opt/cutaway
# The root may be mounted read-only: where /tmp cannot be written either, models of a folder run eager. Both addresses are loopback unless told otherwise.
ENV PATH=/opt/cutaway/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CUTAWAY_LISTEN=0.0.0.0:50051 \
    CUTAWAY_METRICS=0.0.0.0:9464
USER 10001:10001
WORKDIR /tmp
EXPOSE 50051 9464
ENTRYPOINT ["cutaway", "serve"]
