"""Which convolution becomes what: candidates, measured times, divergences, plans."""
