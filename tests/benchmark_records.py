"""Made-up records of benchmarks: the right shapes, invented numbers."""

from typing import Any

from litevl.benchmark_record import BenchmarkRecord


def make_benchmark(ours: float = 2.0, peer: float = 12.0, **changes: Any) -> BenchmarkRecord:
    """Re-ranking in so many seconds, ours against a peer; change it as a test needs."""

    def around(value: float) -> dict[str, float]:
        return {"low": 0.9 * value, "median": value, "high": 1.1 * value}

    document = {
        "name": "re-ranking",
        "title": "Re-ranking by the cross-encoder",
        "quick": False,
        "code": {"version": "0.1.0", "commit": "a" * 40, "dirty": False},
        "packages": {"torch": "2.13.0"},
        "hardware": {
            "device": "cpu",
            "processor": "Some Processor",
            "cores": 2,
            "memory_gib": 23.4,
            "python": "3.11.7",
            "platform": "Linux",
            "threads": 2,
        },
        "rows": [
            {
                "name": "fp32",
                "item": "pairs",
                "rounds": 5,
                "conditions": {"frames": 8, "model": "ViT-B/16"},
                "contenders": [
                    {"name": "ours", "seconds": around(ours), "items": 64, "flops": 10**9},
                    {"name": "blip", "seconds": around(peer), "items": 64},
                ],
                "ratios": [{"faster": "ours", "slower": "blip", "times": around(peer / ours)}],
            }
        ],
        "figures": [
            {
                "name": "re-ranking-vs-blip",
                "claim": "Re-ranking against BLIP's way",
                "unit": "times",
                "at_least": 6.0,
                "value": peer / ours,
            }
        ],
    }
    return BenchmarkRecord.model_validate(document | changes)
