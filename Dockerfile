# The dashboard in a container; docs/server.md says how it is built, run and stopped.
#   with CUDA 13:   docker build -t fiducial .
#   without a GPU:  docker build -t fiducial --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS packages
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu130
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.txt requirements.lock ./
# torch first and by itself: its index has the build for the card, and other packages only as far as torch
# needs them. The wheel brings its own CUDA libraries; the driver comes from the host.
RUN python -m venv /opt/venv \
    && grep '^torch==' requirements.txt > torch.txt \
    && pip install --index-url "$TORCH_INDEX" -r torch.txt \
    && pip install -r requirements.lock

FROM python:${PYTHON}-slim
# Nothing is written outside /data and /tmp: the caches are in the volume, whichever user runs it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NO_ALBUMENTATIONS_UPDATE=1 \
    GRADIO_ANALYTICS_ENABLED=False \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    FIDUCIAL_CONTAINER=1 \
    FIDUCIAL_CACHE_DIR=/data/cache \
    XDG_CACHE_HOME=/data/cache \
    CUDA_CACHE_PATH=/data/cache/cuda \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 1000 --create-home fiducial && install -d -o fiducial -g fiducial /data
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY requirements.txt app.py train.py ./
COPY backend backend
COPY install install
COPY models models
COPY ui ui
USER 1000
VOLUME /data
EXPOSE 7860
# in exec form, so that it gets the signal itself: its trainings then save and end (--on_exit stop)
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['GRADIO_SERVER_PORT'] + '/healthz', timeout=4)"]
CMD ["python", "app.py", "--runs_dir", "/data/runs", "--data_root", "/data/sets"]
