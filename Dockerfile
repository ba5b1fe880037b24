# The `embre` command for machines with NVIDIA GPUs.
#
#   docker build -t embre .
#   docker run --gpus all --shm-size 8g -v "$PWD:/data" embre doctor
#
# Relative paths of a config (shards, backbones, runs) are looked for in /data, which uid 10001 must be able to write.
# torch's wheel brings CUDA, so the base needs only a driver on the host and the NVIDIA container toolkit.
# 3.11 is the Python that constraints.txt and requirements.image.txt were resolved for. The base is named by its digest,
# so that it is the same in a year; before a release look for a newer one:
#   docker buildx imagetools inspect python:3.11-slim-bookworm
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# g++: for what torch and DeepSpeed compile when a config asks for it. wget: Ray's health checks on Kubernetes call it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 10001 --create-home embre \
    && mkdir /data \
    && chown embre /data

WORKDIR /opt/embre

# The dependencies are a layer of their own: they are gigabytes and change seldom. Every file is checked against its
# SHA-256, and nothing is fetched to build with: DeepSpeed, the one that comes as source, takes the base's setuptools.
COPY requirements.image.txt ./
RUN pip install --no-cache-dir --no-build-isolation --require-hashes -r requirements.image.txt

COPY . .
RUN pip install --no-cache-dir --no-build-isolation --no-deps .

ENV PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
ENTRYPOINT ["embre"]
