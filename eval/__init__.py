"""FlexNN's evaluation, repeated on this machine: `python -m eval`, from a checkout."""
