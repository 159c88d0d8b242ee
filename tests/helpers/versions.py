"""Which versions of peft the installed transformers takes."""

import importlib.metadata

import pytest
import transformers
from packaging.version import Version
from transformers.integrations.peft import MIN_PEFT_VERSION

PEFT = importlib.metadata.version("peft")
# transformers 5.24 refuses every peft that is released in `add_adapter`, for LoRA as for us.
needs_add_adapter = pytest.mark.skipif(
    Version(PEFT) < Version(MIN_PEFT_VERSION),
    reason=f"transformers {transformers.__version__} refuses peft {PEFT}, it wants "
    f"{MIN_PEFT_VERSION}",
)
