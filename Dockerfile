# Two images: `api` (small) and `worker` (with PyTorch). They share their first layers, and the source comes last, so
# that a new version rebuilds and pulls only a few megabytes.

FROM python:3.12-slim AS base
# For builds behind a package mirror; empty: pip's own defaults.
ARG PIP_INDEX_URL=
ARG PIP_EXTRA_INDEX_URL=
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
# New volumes take over the owner of the folders that they are mounted on.
RUN useradd --system --uid 10001 --home-dir /var/lib/imagekin imagekin \
    && cd /var/lib && install -d -o imagekin -g imagekin \
        imagekin imagekin/cache imagekin/storage imagekin/weights
ENV IMAGEKIN_DATA_DIR=/var/lib/imagekin \
    IMAGEKIN_STORAGE_URL=file:///var/lib/imagekin/storage \
    IMAGEKIN_WEIGHTS_DIR=/var/lib/imagekin/weights \
    IMAGEKIN_CACHE_DIR=/var/lib/imagekin/cache
WORKDIR /usr/src/imagekin

# Empty packages in the place of the source: what imagekin needs is a layer that only pyproject.toml changes.
FROM base AS stub
COPY pyproject.toml ./
RUN touch README.md \
    && for package in shared/imagekin api/imagekin_api worker/imagekin_worker migrations/imagekin_migrations; do \
        mkdir -p "$package" && touch "$package/__init__.py"; \
    done

FROM base AS api
COPY --from=stub /usr/src/imagekin ./
RUN pip install '.[api,s3]'
COPY . .
RUN pip install --no-deps --force-reinstall .
WORKDIR /var/lib/imagekin
USER imagekin
ENTRYPOINT ["imagekin"]
CMD ["api"]

FROM base AS torch
# An index with CPU-only wheels of PyTorch saves gigabytes; empty: the wheels of the default index, which know CUDA.
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

FROM torch AS worker
# PyTorch compiles networks for a GPU by it; for a processor OpenVINO does without.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=stub /usr/src/imagekin ./
RUN pip install '.[cpu,s3]'
COPY . .
RUN pip install --no-deps --force-reinstall . && cp docker/worker_health.py /usr/local/lib/imagekin_worker_health.py
# Downloaded weights lie on the weights volume, so that they are downloaded once.
ENV TORCH_HOME=/var/lib/imagekin/weights/torch
WORKDIR /var/lib/imagekin
USER imagekin
ENTRYPOINT ["imagekin"]
CMD ["worker", "--lane=bulk"]
