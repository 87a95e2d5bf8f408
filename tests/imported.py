"""What the server of `processes` imports once, in the place of each process that it forks."""

from importlib import import_module

from dpo.libraries import import_libraries

import_libraries(adapters=True)
for name in (
    "dpo.jobs",
    "dpo.models.tiny",
    "dpo.results.figures.curves",
    "dpo.run",
    "dpo.verbs",
    "hydra.core.override_parser.overrides_parser",
    "hydra.utils",
    "matplotlib.backends.backend_svg",
    "pyarrow.parquet",
    "transformers.models.llama.modeling_llama",
):
    import_module(name)
