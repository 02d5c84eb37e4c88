"""A patched ncnn: its source by pip, the series of `patches/`, a wheel that is kept, and what the one in use can do."""
