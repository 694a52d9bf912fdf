"""The constants of the landscape: what genes edit. Which of them matter, and how, depends on the instance."""

KNOB_00 = 0.3
KNOB_01 = 0.02
KNOB_02 = 12
KNOB_03 = 1e-3
KNOB_04 = 0.004
KNOB_05 = 64
KNOB_06 = 1.5
KNOB_07 = 0.95
KNOB_08 = 300
KNOB_09 = 0.85
KNOB_10 = 2e-5
KNOB_11 = 20.0
KNOB_12 = 5
KNOB_13 = 0.5
KNOB_14 = 10000
KNOB_15 = 0.1
KNOB_16 = 1.02
KNOB_17 = 0.0625
KNOB_18 = 4
KNOB_19 = 0.001
KNOB_20 = 32
KNOB_21 = 0.25
KNOB_22 = 7.5
KNOB_23 = 0.75
KNOB_24 = 1e-8
KNOB_25 = 3
KNOB_26 = 0.018
KNOB_27 = 2048
KNOB_28 = 0.6
KNOB_29 = 1.0


def schedule():
    """Return the constants of the schedule."""
    knob_30 = 0.4
    knob_31 = 150
    knob_32 = 0.05
    knob_33 = 2.0
    return {"KNOB_30": knob_30, "KNOB_31": knob_31, "KNOB_32": knob_32, "KNOB_33": knob_33}


def group(**constants):
    """Return the keyword arguments as a dictionary."""
    return constants


OPTIMISER = group(
    KNOB_34=0.8,
    KNOB_35=0.965,
    KNOB_36=1e-10,
    KNOB_37=0.2,
    KNOB_38=6,
    KNOB_39=0.01,
)
