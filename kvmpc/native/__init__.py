"""The hot loops of the host: assembly sources, the assembler that guards them, their records."""
