"""`maskwise serve`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from maskwise.cli.options import DeviceFlag, MinKnown, MinProbability, Mode, ModelFile, Threads
from maskwise.extras import needs_extra
from maskwise.serve.settings import Limits, access_for, is_loopback


@dataclass(frozen=True, kw_only=True)
class Command:
    """Open a page to click on things and read their names, and an HTTP API, on this machine.

    Nothing leaves the machine. The API is described at /openapi.json. Where other machines can reach it (--host), every
    request needs a token: the first line of --token-file, or the environment variable MASKWISE_TOKEN, else one is made
    up and printed.

    Examples:
      maskwise serve
      maskwise serve --port 9000 --no-browser
      maskwise serve --host 0.0.0.0 --token-file token.txt
      maskwise serve --label-studio http://localhost:8080
      curl -F image=@photo.jpg -F 'regions=[{"box": [10, 20, 200, 120]}]' localhost:8000/v1/predict
    """

    port: int = 8000
    """Port to listen at; 0 for any free one."""
    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every network of this machine."""
    browser: bool = True
    """Open the page in a browser."""
    token_file: Path | None = None
    """File with the token that requests must have."""
    allow_host: tuple[str, ...] = ()
    """Further names by which clients may call this server, as behind a reverse proxy."""
    allow_origin: tuple[str, ...] = ()
    """Other web sites whose pages may use the API, like https://example.org."""
    label_studio: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """Be an ML backend of the Label Studio at this address: name the regions of its tasks, or find and name things."""
    label_studio_key_file: Path | None = None
    """File with an access token of Label Studio, to get images; or the environment variable LABEL_STUDIO_API_KEY."""
    label_studio_files: Path | None = None
    """Folder of Label Studio's local storage, to read its files directly."""
    min_known: MinKnown = None
    min_probability: MinProbability = 0.0
    mode: Mode = "exact"
    model: ModelFile = None
    device: DeviceFlag = "cpu"
    threads: Threads = None
    limits: Annotated[Limits, tyro.conf.arg(help="What a client may ask for.")] = field(default_factory=Limits)

    def run(self) -> None:
        """Serve until interrupted."""
        with needs_extra("serve"):
            from maskwise.serve.application import make_application
            from maskwise.serve.label_studio_images import LabelStudio
            from maskwise.serve.server import LABEL_STUDIO_VARIABLE, address_of, listen, new_token, read_token, serve
        from maskwise.model.predictor import Predictor
        from maskwise.model.segmenter import Segmenter

        token = read_token(self.token_file)
        if token is None and not is_loopback(self.host):
            token = new_token()
        access = access_for(self.host, token=token, hosts=self.allow_host, origins=self.allow_origin)
        label_studio = None
        if self.label_studio is not None:
            key = read_token(self.label_studio_key_file, LABEL_STUDIO_VARIABLE)
            label_studio = LabelStudio(self.label_studio, key, self.label_studio_files)
        listener = listen(self.host, self.port)
        address = address_of(self.host, listener.getsockname()[1], token)
        print("opening the model ...", file=sys.stderr)
        predictor = Predictor(
            self.model,
            mode=self.mode,
            device=self.device,
            threads=self.threads,
            min_known=self.min_known,
            min_probability=self.min_probability,
        )
        segmenter = Segmenter(threads=self.threads)
        app = make_application(predictor, segmenter, access=access, limits=self.limits, label_studio=label_studio)
        open_browser = self.browser and is_loopback(self.host)
        serve(app, listener, address, idle_s=self.limits.idle_s, open_browser=open_browser)
