"""Other layouts to CEST-BIDS: arrays, tables of offsets and B1, sequences; nothing is guessed."""
