"""README's examples of the models in Python, run as they stand; test_use.py has that of search."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_examples_in_python_run(make_clip, monkeypatch, capsys):
    monkeypatch.chdir(make_clip("clip.mp4").parent)
    _, retrieval, answering = re.findall(
        r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict = {}
    exec(retrieval, names)
    assert names["similarity"].shape == (1, 1)
    assert names["match"].shape == (1, 2)
    exec(answering, names)
    assert names["ranking"].indices.shape == (1, 5)
    assert capsys.readouterr().out.split()[0] in names["listed"]
