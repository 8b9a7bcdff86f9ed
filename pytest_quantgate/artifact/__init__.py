"""Model files and the texts they are measured on: found, guarded, read and made.

Nothing here knows of gates or pytest. Files are read with plain input and output, header by header
or block by block; only `quantize` runs native code, and only inside a probe.
"""
