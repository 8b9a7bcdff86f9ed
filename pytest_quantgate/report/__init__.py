"""How verdicts are told; one module per form, pure functions of records."""
