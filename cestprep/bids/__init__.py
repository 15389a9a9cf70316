"""Reading CEST-BIDS sessions and writing CEST-BIDS derivatives."""
