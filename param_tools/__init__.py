"""Read, check, slice and write NCNN .param/.bin model files; needs numpy and networkx only."""
