"""How well maps and posteriors agree, and whether uncertainties are honest; arrays only."""
