"""What the server of `processes` imports once, in the place of each process that it forks."""

import dpo.jobs
import dpo.run
import dpo.verbs
from dpo.libraries import import_libraries

import_libraries(adapters=True)
import transformers.models.llama.modeling_llama  # noqa: E402
