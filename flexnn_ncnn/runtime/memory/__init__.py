"""Memory: the arena, the heap, and what the process holds."""
