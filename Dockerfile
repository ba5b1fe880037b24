# The `embre` command for machines with NVIDIA GPUs.
#
#   docker build -t embre .
#   docker run --gpus all --shm-size 8g -v "$PWD:/data" embre doctor
#
# Relative paths of a config (shards, backbones, runs) are looked for in /data, which uid 10001 must be able to write.
# torch's wheel brings CUDA, so the base needs only a driver on the host and the NVIDIA container toolkit.
# 3.11 is the Python that constraints.txt was resolved for. Before a release pin the base by digest:
#   docker buildx imagetools inspect python:3.11-slim-bookworm   ->   FROM python:3.11-slim-bookworm@sha256:...
FROM python:3.11-slim-bookworm

# g++: for what torch and DeepSpeed compile when a config asks for it. wget: Ray's health checks on Kubernetes call it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 10001 --create-home embre \
    && mkdir /data \
    && chown embre /data

WORKDIR /opt/embre

# The dependencies are a layer of their own: they are gigabytes and change seldom.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir embre \
    && touch embre/__init__.py \
    && pip install --no-cache-dir -c constraints.txt '.[s3,gs]'

COPY . .
RUN pip install --no-cache-dir --no-deps --force-reinstall .

ENV PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
ENTRYPOINT ["embre"]
