"""`maskwise demo`."""

from __future__ import annotations

from dataclasses import dataclass

from maskwise.cli import serve


@dataclass(frozen=True, kw_only=True)
class Command:
    """Open the page on the example photographs: click on a thing and read its name.

    Examples:
      maskwise demo
      maskwise demo --no-browser
    """

    browser: bool = True
    """Open the page in a browser."""

    def run(self) -> None:
        """Serve at a free port until interrupted."""
        serve.Command(port=0, browser=self.browser).run()
