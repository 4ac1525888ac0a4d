"""README's example of the model in Python, run as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_in_python_runs(make_clip, monkeypatch):
    monkeypatch.chdir(make_clip("clip.mp4").parent)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(example, names)
    assert names["similarity"].shape == (1, 1)
    assert names["match"].shape == (1, 2)
