"""Mean parameters of tissues, in package units."""

from __future__ import annotations

from collections.abc import Mapping

#: Relaxation as usual at 3 T; exchange near the values published for healthy volunteers
#: (Finkelstein 2025, Commun. Phys. 8:164, Table 1).
TISSUES: Mapping[str, Mapping[str, float]] = {
    "CSF": {"t1": 3.5, "t2": 1.0, "semisolid.fraction": 0.004, "semisolid.k_exchange": 40.0,
            "amide.fraction": 0.0003, "amide.k_exchange": 200.0, "m0": 1.2,
            "rnoe.fraction": 0.0005, "rnoe.k_exchange": 100.0},
    "GM": {"t1": 1.5, "t2": 0.085, "semisolid.fraction": 0.063, "semisolid.k_exchange": 44.0,
           "amide.fraction": 0.0021, "amide.k_exchange": 236.0, "m0": 1.0,
           "rnoe.fraction": 0.004, "rnoe.k_exchange": 130.0},
    "WM": {"t1": 0.95, "t2": 0.07, "semisolid.fraction": 0.131, "semisolid.k_exchange": 35.0,
           "amide.fraction": 0.0033, "amide.k_exchange": 305.0, "m0": 0.8,
           "rnoe.fraction": 0.006, "rnoe.k_exchange": 130.0},
}  # fmt: skip

#: Around the brain: bone without signal, scalp, fat that is mostly suppressed; and a glioma.
_AROUND: Mapping[str, Mapping[str, float]] = {
    "skull": {**TISSUES["GM"], "t1": 0.4, "t2": 0.01, "m0": 0.03},
    "muscle": {**TISSUES["GM"], "t1": 1.4, "t2": 0.035, "m0": 0.7, "semisolid.fraction": 0.09},
    "fat": {**TISSUES["CSF"], "t1": 0.38, "t2": 0.06, "m0": 0.2, "semisolid.fraction": 0.0005},
    "lesion": {**TISSUES["GM"], "t1": 1.9, "t2": 0.12, "semisolid.fraction": 0.045,
               "amide.fraction": 0.0045, "m0": 1.1},
}  # fmt: skip
HEAD_TISSUES: Mapping[str, Mapping[str, float]] = {**TISSUES, **_AROUND}
