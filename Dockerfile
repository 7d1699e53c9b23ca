# Runs setup.sh in an image for CUDA machines. PyTorch's wheels include CUDA.
#   docker build -t df .
#   docker run --runtime=nvidia --ipc=host --rm --volume <DATA_ROOT>:/dataset -it df
# It also builds with podman and buildah. docker-entrypoint.sh decides which user runs the commands.
FROM python:3.12-slim

WORKDIR /workspace
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video

# Install the packages first, so that code changes don't download them again.
RUN --mount=type=bind,source=setup.sh,target=/workspace/setup.sh \
    --mount=type=bind,source=requirements.txt,target=/workspace/requirements.txt \
    ./setup.sh

# APEX's fused optimizers, optional: docker build --build-arg WITH_APEX=1 -t df .
# Building them needs a C++ compiler and nvcc of PyTorch's CUDA version, and takes about ten minutes.
# Default: without APEX, training uses PyTorch's fused optimizers.
ARG WITH_APEX=0
ARG APEX_REVISION=master
RUN if [ "$WITH_APEX" = 1 ]; then \
        apt-get update && apt-get install -y --no-install-recommends build-essential git && \
        cuda=$(python -c 'import torch; print(torch.version.cuda)') && \
        pip install --no-cache-dir ninja setuptools wheel "nvidia-cuda-nvcc==${cuda}.*" && \
        export CUDA_HOME=$(python -c 'import nvidia, pathlib; print(next(pathlib.Path(nvidia.__path__[0]).glob("cu1[0-9]")))') && \
        git clone https://github.com/NVIDIA/apex /tmp/apex && git -C /tmp/apex checkout "$APEX_REVISION" && \
        APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install --no-cache-dir --no-build-isolation /tmp/apex && \
        rm -rf /tmp/apex /var/lib/apt/lists/*; \
    fi

COPY . .
RUN ./setup.sh

# Ray, optional: docker build --build-arg WITH_RAY=1 -t df .
ARG WITH_RAY=0
RUN if [ "$WITH_RAY" = 1 ]; then pip install --no-cache-dir --no-deps -r requirements-cluster.txt; fi

# Any user can write the outputs of training and quickstart.sh, and has a home folder for caches. User df owns an
# unmounted /dataset.
ENV HOME=/home/df USER=df
RUN useradd --create-home df && mkdir -p /dataset weights logs images && chown df:df /dataset && \
    chmod 777 /home/df . weights logs images

VOLUME /dataset
ENTRYPOINT ["/workspace/docker-entrypoint.sh"]
CMD ["bash"]
