import re
from pathlib import Path

from maskwise.cli import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def test_every_command_is_listed():
    assert set(re.findall(r"^\| `maskwise ([\w-]+)", TEXT, re.MULTILINE)) == set(main.COMMANDS)


def test_the_file_tree_of_contributing_is_true():
    """Every module stands in it, in its folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    listed, folder = set(), ""
    for line in re.search(r"```\nsrc/maskwise/\n(.*?)```", text, re.DOTALL)[1].splitlines():
        if entry := re.match(r"(?:  )?([\w/]+)/ ", line):
            folder = entry[1]
        inner = f"{folder}/" if line.startswith("    ") else ""
        listed |= {inner + name for name in re.findall(r"[\w-]+\.py", line)}
        assert (ROOT / "src/maskwise" / folder).is_dir() or (ROOT / folder).is_dir(), folder
    paths = (path.relative_to(ROOT / "src/maskwise") for path in (ROOT / "src/maskwise").rglob("*.py"))
    modules = {path.as_posix() for path in paths if not path.stem.startswith("__")}
    assert listed == modules | {path.name for path in (ROOT / "recipes").glob("*.py")}


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z]+@|TODO|XXX", TEXT)


def test_its_pictures_are_there():
    for link in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / link).is_file(), link


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\((?!https?://)(.*?)\)", TEXT):
        assert (ROOT / link).exists(), link
