"""HTML reports: numbers and figures from arrays, one self-contained page."""
