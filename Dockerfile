# Everything that is ours runs from this image: the Prefect server, the worker, the command `lightgen`.
FROM python:3.11.14-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 DO_NOT_TRACK=1
# A volume takes the owner of the folder it is first mounted on.
RUN useradd --uid 1000 --create-home lightgen && install --directory --owner lightgen /cache

WORKDIR /lightgen
# Dependencies before code: this layer holds gigabytes of CUDA wheels, and changes only when these two files do.
ARG EXTRAS=ray,s3,server
# PyTorch without CUDA: https://download.pytorch.org/whl/cpu
ARG TORCH_INDEX=
COPY pyproject.toml constraints.txt ./
RUN python -c "import sys, tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = [project['optional-dependencies'][name] for name in sys.argv[1].split(',')]; \
print(*project['dependencies'], *sum(extras, []), sep='\n')" "$EXTRAS" > /tmp/requirements.txt \
    && pip install --constraint constraints.txt --requirement /tmp/requirements.txt ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX}

COPY README.md LICENSE prefect.yaml prefect.toml lightgen.py ./
COPY flows flows
COPY tasks tasks
COPY storage storage
COPY lightgen_core lightgen_core
# Editable: a deployment's entry point is a path in this folder, and there is one copy of the code.
RUN pip install --no-deps --editable . && python -m compileall -q flows tasks storage lightgen_core

USER lightgen
CMD ["lightgen", "--help"]
