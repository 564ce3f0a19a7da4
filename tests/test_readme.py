import re
import tomllib
from pathlib import Path

from maskwise import cli
from maskwise.training.settings import settings_from_dict

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_its_recipe_is_one():
    recipe = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)[1]
    settings = settings_from_dict(tomllib.loads(recipe), "README.md")
    assert settings.data.sources[0].annotations == "truth.json"


def test_every_command_is_listed():
    assert set(re.findall(r"^\| `maskwise ([\w-]+)", TEXT, re.MULTILINE)) == set(cli.COMMANDS)


def test_its_file_tree_is_true():
    tree = re.search(r"## What is where\n\n```\n(.*?)```", TEXT, re.DOTALL)[1]
    listed = set(re.findall(r"[\w-]+\.py", tree))
    modules = {p.name for p in (ROOT / "src/maskwise").rglob("*.py") if p.parent.name != "commands"} - {"__init__.py"}
    assert listed == modules | {p.name for p in (ROOT / "recipes").glob("*.py")}
    for folder in re.findall(r"^([\w/]+)/ ", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_no_placeholder_is_left():
    assert not re.search(r"@[A-Z]+@|TODO|XXX", TEXT)


def test_its_pictures_are_there():
    for link in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / link).is_file(), link
