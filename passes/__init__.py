"""The graph passes, one rewrite per file.

A pass is one file here, one test file, and one line in `PASS_NAMES`.
"""

# In the order in which they run. `normalize` always runs first: the others rely on it.
PASS_NAMES = ("simplify", "fold_batchnorm", "separate", "align_channels", "quantize")
