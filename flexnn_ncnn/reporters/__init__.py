"""Records turned into text or JSON; nothing here reads a model."""
