"""What a recognised annotation file is."""

from dataclasses import dataclass

from litevl.tasks import Dataset


@dataclass(frozen=True)
class Kind:
    """What an annotation file is.

    dataset: whose it is. MSRVTT's official JSON serves MSRVTT-QA, too.
    role:    what it says, as the data set's loader asks for it: "train", "test", "clips", ...
    format:  in whose form, for messages: "1k-A CSV", "original JSON", ...
    """

    dataset: Dataset
    role: str
    format: str
