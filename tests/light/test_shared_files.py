"""Recipes and examples of an installed wheel."""

from pathlib import Path

from maskwise import shared_files
from maskwise.shared_files import find_shared


def test_a_file_is_taken_as_given_before_the_wheels(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_files.sysconfig, "get_path", lambda _name, _scheme: str(tmp_path / "data"))
    wheels = tmp_path / "data" / "share" / "maskwise" / "recipes" / "a.toml"
    wheels.parent.mkdir(parents=True)
    wheels.write_text("wheel")
    monkeypatch.chdir(tmp_path)
    given = Path("recipes/a.toml")
    assert find_shared(given) == wheels
    given.parent.mkdir()
    given.write_text("mine")
    assert find_shared(given) == given
    assert find_shared(Path("recipes/none.toml")) == Path("recipes/none.toml")
    assert find_shared(Path("/recipes/a.toml")) == Path("/recipes/a.toml")
