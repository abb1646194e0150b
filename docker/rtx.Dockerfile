# pgn-edge for PCs with an NVIDIA GPU. Build from the root of the repository:
#   docker build -f docker/rtx.Dockerfile -t pgn-edge .
# BACKEND=rtx compiles with TensorRT-RTX, BACKEND=tensorrt with TensorRT.
FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
ARG BACKEND=rtx

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/pgn-edge
COPY pyproject.toml PACKAGE.md LICENSE ./
COPY pgn_edge pgn_edge
COPY train train
COPY export export
COPY runtime runtime
# A container has no screen: the headless OpenCV needs neither libGL nor GLib.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir ".[cli,cpu,cv-headless,compile,${BACKEND}]"

# Whoever runs the container may write to the plan cache.
RUN mkdir -m 1777 /cache
# ONNX Runtime reads ORT_DISABLE_TELEMETRY when it is imported.
ENV PATH=/opt/venv/bin:$PATH PGN_EDGE_CACHE=/cache ORT_DISABLE_TELEMETRY=1
WORKDIR /work
ENTRYPOINT ["pgn-edge"]
CMD ["doctor"]
