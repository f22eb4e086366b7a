"""Words and rules that every other room shares. Standard library only, no I/O."""
