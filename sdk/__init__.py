"""pathgene-rt: streams whole slides through exported pathology models."""
