"""LiteVL (arXiv 2210.11929): BLIP adapted to video directly on downstream tasks, and its claims."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litevl.model.config import LiteVLConfig
    from litevl.model.litevl import LiteVLForRetrieval
    from litevl.model.question_answering import LiteVLForQuestionAnswering

__all__ = ["LiteVLConfig", "LiteVLForQuestionAnswering", "LiteVLForRetrieval", "__version__"]
__version__ = "0.1.0"  # pyproject.toml says the same; a test compares them


def __getattr__(name: str) -> object:
    """The public classes on first use: importing them loads torch, which takes seconds."""
    if name == "LiteVLConfig":
        from litevl.model.config import LiteVLConfig

        return LiteVLConfig
    if name == "LiteVLForRetrieval":
        from litevl.model.litevl import LiteVLForRetrieval

        return LiteVLForRetrieval
    if name == "LiteVLForQuestionAnswering":
        from litevl.model.question_answering import LiteVLForQuestionAnswering

        return LiteVLForQuestionAnswering
    raise AttributeError(f"module 'litevl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
