"""Which level fits a machine: shapes, sizes, memory, and the rules of choosing."""
