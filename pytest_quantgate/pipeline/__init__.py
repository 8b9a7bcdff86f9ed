"""The artifact pipeline: what `artifact` does to model files, done in probes.

Native code that reads a file somebody brought may take its process with it; here it takes a probe.
"""
