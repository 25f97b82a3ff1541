"""The benchmark: a matrix of cells, a fresh process for each, and what the times prove."""
