"""Other runtimes on the same graphs, as a user would install them: `pip install 'flexnn-ncnn[peers]'`."""
