"""The C ABI: `pathgene_rt.h`, the library behind it, and how it is built."""
