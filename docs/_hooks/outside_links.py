"""MkDocs hook: make links from docs/ to the rest of the repository work on the site.

On GitHub such links are relative (`../benchmarks/results/fit/fit.md`). On the site a picture is copied in, and any
other file becomes a link to GitHub.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

GITHUB = "https://github.com/maskwise/maskwise"
LINK = re.compile(r"(!?\[[^\]]*\]\()((?:\.\./)+[^)\s#]+)(#[^)\s]*)?(?=[)\s])")
PICTURES = (".png", ".jpg", ".svg")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the page with links that leave docs/ replaced; links within docs/ stay."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir).name
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(docs, folder, link[2]))
        target = root / path
        if path.startswith(f"{docs}/") or not target.exists():
            return link[0]  # MkDocs checks these itself.
        if target.suffix in PICTURES:
            if files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(target)))
            return f"{link[1]}{posixpath.relpath(path, folder or '.')}"
        return f"{link[1]}{GITHUB}/{'tree' if target.is_dir() else 'blob'}/main/{path}{link[3] or ''}"

    return LINK.sub(replaced, markdown)
