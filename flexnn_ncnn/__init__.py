"""Run NCNN models under a byte budget on the stock ncnn wheel."""
