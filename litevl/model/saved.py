"""Where a model's weights come from and go to: BLIP's checkpoints, folders, the model hub."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError

from litevl.errors import WeightsError
from litevl.model.config import LiteVLConfig


class Saved(PyTorchModelHubMixin):
    """`from_blip`, and the hub library's save_pretrained, from_pretrained and push_to_hub."""

    @classmethod
    def from_blip(cls, source: str | Path, fresh: Sequence[str] = (), **overrides: Any) -> Self:
        """A model that starts from BLIP's weights.

        source: "mini-blip"; an original .pth of BLIP, a transformers checkpoint's folder, or a
        file that litevl wrote; "blip:model_base_14M" or "hub:OWNER/NAME" once it was fetched by
        `litevl data fetch`. Question answering needs one that has the decoder. fresh: parts that
        the checkpoint lacks and that are to start at random, of vision_proj, text_proj, itm_head
        and temp. overrides: fields of LiteVLConfig. Raises WeightsError that lists every key
        without a place, or the options that are unknown.
        """
        from litevl.model.weights import load_blip

        # Only modules mix this in, which a mixin cannot say of itself.
        return load_blip(cls, source, None, fresh, **overrides)[0]  # type: ignore[type-var]

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        config: LiteVLConfig | dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """The mixin's hook behind `from_pretrained`, strict where the mixin is not.

        Left to itself it ignores unknown fields of config.json and leaves tensors that the file
        lacks at random values. Raises WeightsError for both.
        """
        if config is None:
            raise WeightsError(f"{model_id}: no config.json; is it what save_pretrained wrote?")
        if isinstance(config, dict):
            unknown = sorted(set(config) - {field.name for field in fields(LiteVLConfig)})
            if unknown:
                raise WeightsError(f"{model_id}: config.json has unknown {', '.join(unknown)}")
            config = LiteVLConfig(**config)
        expect_as_large(cls, config, Path(model_id, "model.safetensors"))
        options.setdefault("strict", True)
        try:
            with contextlib.redirect_stdout(None):  # the mixin prints where it loads from
                model: Self = super()._from_pretrained(model_id=model_id, config=config, **options)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise WeightsError(f"{model_id}: the weights cannot be loaded ({error})") from None
        return model


def expect_as_large(model_class: type[Saved], config: LiteVLConfig, weights: Path) -> None:
    """Raise WeightsError where config.json describes a model that the file beside it cannot fill.

    Told on tensors without content: the model itself might take all memory.
    """
    if not weights.is_file():  # of the hub, or missing, which is told as such
        return
    with torch.device("meta"):
        model: Any = model_class(config)
    wanted, size = sum(each.numel() for each in model.parameters()), weights.stat().st_size
    if wanted > size:
        raise WeightsError(
            f"{weights}: {size} bytes cannot hold the {wanted} numbers that config.json describes\n"
            "  The file is cut short, or config.json is another model's: get both again."
        )
