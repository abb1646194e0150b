# pgn-edge for a Jetson. Build on the Jetson, from the root of the repository:
#   docker build -f docker/jetson.Dockerfile -t pgn-edge .
# The tag is that of Jetson Linux: r36.4.0 brings CUDA 12.6 and TensorRT 10.3, as JetPack 6.1 and 6.2 do.
ARG BASE=nvcr.io/nvidia/l4t-jetpack:r36.4.0
FROM ${BASE}

# The system's OpenCV is built with GStreamer, which CSI cameras need; the wheels of OpenCV are not. TensorRT's Python module comes with the base or from JetPack's packages;
# it cannot be imported here, since the driver joins only when the container runs.
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-opencv python3-pip python3-venv \
 && (python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("tensorrt") is None)' \
     || apt-get install -y --no-install-recommends python3-libnvinfer) \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/pgn-edge
COPY pyproject.toml PACKAGE.md LICENSE ./
COPY pgn_edge pgn_edge
COPY train train
COPY export export
COPY runtime runtime
# The system's packages stay visible: TensorRT and OpenCV are among them, and this OpenCV was compiled for numpy 1.
RUN python3 -m venv --system-site-packages /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --upgrade pip \
 && /opt/venv/bin/pip install --no-cache-dir "numpy<2" ".[cli,cpu,compile]"

# Whoever runs the container may write to the plan cache.
RUN mkdir -m 1777 /cache
# ONNX Runtime reads ORT_DISABLE_TELEMETRY when it is imported.
ENV PATH=/opt/venv/bin:$PATH PGN_EDGE_CACHE=/cache ORT_DISABLE_TELEMETRY=1
WORKDIR /work
ENTRYPOINT ["pgn-edge"]
CMD ["doctor"]
