"""What a run's models come from, imported in one go while the collector of cyclic garbage rests."""

from __future__ import annotations

import gc
import sys


def import_libraries(adapters: bool) -> None:
    """Import what transformers otherwise imports bit by bit as a tokenizer and a model are loaded; peft for `adapters`.

    The half million objects that this makes live as long as the process. The collector would walk through them again
    and again while they are made, a fifth of the time that importing takes, and later at each full collection.
    Does nothing where models were imported before: what lives on then is not for us to freeze.
    """
    if "transformers.modeling_utils" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        from transformers import PreTrainedModel  # noqa: F401

        if adapters:
            import peft  # noqa: F401
        gc.freeze()
    finally:
        if collecting:
            gc.enable()
