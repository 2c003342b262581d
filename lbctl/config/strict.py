"""What every section of the file has in common."""

from pydantic import ConfigDict

STRICT = ConfigDict(
    extra="forbid",
    strict=True,
    frozen=True,
    use_attribute_docstrings=True,
    arbitrary_types_allowed=True,
)
