"""What holds JSON to a schema."""

from __future__ import annotations

import json
from functools import cache

from jsonschema.protocols import Validator
from jsonschema.validators import validator_for


@cache
def validator(text: str) -> Validator:
    """The validator of a schema, which is itself held to the rules of schemas: once, since that is most of the work."""
    schema = json.loads(text)
    kind = validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)
