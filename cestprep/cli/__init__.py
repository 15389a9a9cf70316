"""Command lines; nothing heavy is imported before the arguments are understood."""
