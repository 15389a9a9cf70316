"""Physical constants, in the one unit convention of the package."""

import math

#: Proton gyromagnetic ratio over 2 pi, in Hz/uT (the value Pulseq-CEST uses).
GAMMA_HZ_PER_UT = 42.5764
#: Proton gyromagnetic ratio, in rad/(s uT).
GAMMA_RAD_PER_S_UT = 2 * math.pi * GAMMA_HZ_PER_UT


def ppm_to_rad_per_s(frequency_mhz: float) -> float:
    """Angular frequency of 1 ppm, in rad/s, at a spectrometer frequency in MHz."""
    return 2 * math.pi * frequency_mhz
