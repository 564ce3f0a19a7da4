# The page and the HTTP API of `maskwise serve`, as a user without rights. Untried: written without Docker at hand.
#
#   docker build -t maskwise .
#   docker run --rm -p 8000:8000 -e MASKWISE_TOKEN=$(openssl rand -hex 24) maskwise
#
# Every request needs the token. Open http://localhost:8000/#token=TOKEN. Put a reverse proxy with TLS in front of it before other
# machines use it.

FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/maskwise && /opt/maskwise/bin/pip install --no-cache-dir '.[serve]'

FROM python:3.13-slim
RUN useradd --create-home --uid 10001 maskwise
COPY --from=build /opt/maskwise /opt/maskwise
ENV PATH=/opt/maskwise/bin:$PATH PYTHONUNBUFFERED=1
USER maskwise
WORKDIR /home/maskwise
EXPOSE 8000
HEALTHCHECK --start-period=20s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["maskwise", "serve", "--host", "0.0.0.0", "--no-browser"]
