# The dashboard with CUDA: docker build -t fiducial . && docker run --gpus all --shm-size 4g -p 7860:7860 -v fiducial:/data fiducial
FROM python:3.11-slim
WORKDIR /app
ENV PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1 GRADIO_ANALYTICS_ENABLED=False
# --shm-size: the processes that prepare images hand over batches in shared memory, of which Docker gives 64 MB.
# torch's Linux wheel brings its own CUDA libraries; the driver comes from the host through --gpus all
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app.py train.py ./
COPY backend backend
COPY models models
COPY ui ui
EXPOSE 7860
VOLUME /data
CMD ["python", "app.py", "--host", "0.0.0.0", "--runs_dir", "/data/runs", "--data_root", "/data/sets"]
