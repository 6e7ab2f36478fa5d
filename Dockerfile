# The command `lightgen` with everything it needs; the store is a volume at /store.
FROM python:3.11-slim
WORKDIR /lightgen
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY flows flows
COPY tasks tasks
COPY storage storage
COPY lightgen_core lightgen_core
RUN pip install --no-cache-dir --constraint constraints.txt .
ENV LIGHTGEN_STORE=/store
VOLUME /store
ENTRYPOINT ["lightgen"]
CMD ["run", "demo"]
