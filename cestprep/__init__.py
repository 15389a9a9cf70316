"""cestprep: exchange-parameter maps with uncertainty from CEST/MT fingerprinting MRI."""

__version__ = "0.1.0"
