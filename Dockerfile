# docker build -t grayline .                                   PyTorch for CPUs
# docker build -t grayline:cuda --build-arg HARDWARE=cuda .    PyTorch for NVIDIA cards; run it with --gpus all
FROM python:3.11-slim-bookworm
ARG HARDWARE=cpu
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PATH=/opt/grayline/bin:$PATH
WORKDIR /src
COPY requirements.lock install.py ./
# install.py takes PyTorch's wheels for CPUs where there is no card; the lock alone has those for cards.
RUN python -m venv /opt/grayline \
    && if [ "$HARDWARE" = cuda ]; then pip --python /opt/grayline/bin/python install --no-cache-dir --no-deps --require-hashes -r requirements.lock; \
       else python install.py /opt/grayline/bin/python requirements.lock; fi
COPY . .
# Extras of the team profile, in the versions of the locks: without pins, pip tries old releases of S3's packages one after the other.
RUN sed -n 's/^\([^ ;]*==[^ ;]*\).*/\1/p' requirements.lock requirements-dev.lock > /tmp/pins \
    && pip --python /opt/grayline/bin/python install --no-cache-dir -c /tmp/pins '.[dicom,lake,postgres,s3,sign,tune]' \
    && rm -rf /src/* /tmp/pins \
    && useradd --uid 10001 --create-home grayline && install -d -o grayline -g grayline -m 0700 /srv/grayline
USER grayline
# The store, data set files and grayline.toml.
WORKDIR /srv/grayline
VOLUME /srv/grayline
ENV GRAYLINE_STORE=/srv/grayline/store GRAYLINE_LOGS=json
ENTRYPOINT ["grayline"]
