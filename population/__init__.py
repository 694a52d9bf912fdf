"""The domain: genes, composition, individuals, ask/tell, statistics of genes. Pure: no I/O, no clock, no torch."""
