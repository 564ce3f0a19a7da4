"""How annotations are checked while tests run: an int is welcome where a float is asked for, as PEP 484 has it."""

import fastapi
import starlette.datastructures
from beartype import BeartypeConf, FrozenDict, beartype

# FastAPI documents its own subclass and hands over Starlette's.
overrides = FrozenDict({fastapi.UploadFile: starlette.datastructures.UploadFile})
check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))
