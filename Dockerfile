# The same set-up as setup.sh, on a CUDA machine. CUDA itself comes inside PyTorch's wheels.
#   docker build -t df .
#   docker run --runtime=nvidia --ipc=host --rm --volume <DATA_ROOT>:/dataset -it df
FROM python:3.12-slim

WORKDIR /workspace
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video

COPY setup.sh requirements.txt ./
RUN ./setup.sh && pip cache purge

# APEX's fused optimizers, optional: docker build --build-arg WITH_APEX=1 -t df .
# They are compiled, which takes a compiler, CUDA's own compiler (of PyTorch's CUDA version) and some ten minutes;
# without them PyTorch's fused optimizers are used.
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
RUN mkdir -p weights logs images

VOLUME /dataset
CMD ["bash"]
