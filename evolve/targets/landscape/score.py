"""The landscape: score knobs.py by a planted law.

    loss = f(values) + block(seed) + sum over moved knobs of u(knob, seed) + e(tree, seed)

f is a smooth bowl per knob (in doublings of its value, or of its distance to 1 where that is small) plus pair terms
that act when both knobs are moved. Everything is drawn by hashing (instance, names, seed), so an instance is a
number, and the same tree on the same seed scores the same. Of the 40 knobs of an instance 4 are not read, 14 do not
matter, 11 are tuned already and 11 can be improved; 6 of those that are read crash when moved too far. Fewer steps
mean more noise and a bias that differs by knob.

Instances 1000 to 1029 are held out: a strategy is tuned without them and then judged on them once.
"""

import hashlib
import json
import math
import pathlib
import sys
from functools import lru_cache

HELD_OUT = range(1000, 1030)
FULL_STEPS = 1000  # where f is unbiased
BASE_LOSS = 2.5
RESIDUAL_SD = 0.004  # of e(tree, seed) at full steps; other sizes are in this unit
BLOCK_SD = 5 * RESIDUAL_SD
BIAS_SD = 0.25 * RESIDUAL_SD
HARM_LIMIT = 40 * RESIDUAL_SD  # one knob can do no more harm than this
N_UNREAD, N_NEUTRAL, N_TUNED, N_CRASHING, N_PAIRS = 4, 14, 11, 6, 16

BASE = {
    "KNOB_00": 0.3,
    "KNOB_01": 0.02,
    "KNOB_02": 12,
    "KNOB_03": 1e-3,
    "KNOB_04": 0.004,
    "KNOB_05": 64,
    "KNOB_06": 1.5,
    "KNOB_07": 0.95,
    "KNOB_08": 300,
    "KNOB_09": 0.85,
    "KNOB_10": 2e-5,
    "KNOB_11": 20.0,
    "KNOB_12": 5,
    "KNOB_13": 0.5,
    "KNOB_14": 10000,
    "KNOB_15": 0.1,
    "KNOB_16": 1.02,
    "KNOB_17": 0.0625,
    "KNOB_18": 4,
    "KNOB_19": 0.001,
    "KNOB_20": 32,
    "KNOB_21": 0.25,
    "KNOB_22": 7.5,
    "KNOB_23": 0.75,
    "KNOB_24": 1e-8,
    "KNOB_25": 3,
    "KNOB_26": 0.018,
    "KNOB_27": 2048,
    "KNOB_28": 0.6,
    "KNOB_29": 1.0,
    "KNOB_30": 0.4,
    "KNOB_31": 150,
    "KNOB_32": 0.05,
    "KNOB_33": 2.0,
    "KNOB_34": 0.8,
    "KNOB_35": 0.965,
    "KNOB_36": 1e-10,
    "KNOB_37": 0.2,
    "KNOB_38": 6,
    "KNOB_39": 0.01,
}


class TooFar(ArithmeticError):
    """A knob was moved to where nothing trains any more."""


def uniform(*key):
    """Return a number in (0, 1) that depends on the key alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 0.5) / 2**56


def normal(*key):
    """Return a standard normal number that depends on the key alone."""
    radius = math.sqrt(-2 * math.log(uniform(*key, "radius")))
    return radius * math.cos(2 * math.pi * uniform(*key, "angle"))


def log_uniform(low, high, *key):
    """Return a number between low and high, uniform in its logarithm."""
    return low * (high / low) ** uniform(*key)


def moved(z):
    """Return how far a knob at z doublings counts as moved: smooth, odd, within (-1, 1)."""
    return math.tanh(2 * z)


class Knob:
    """The law of one knob in one instance. `optimum` and `cliff` are in doublings of the base value."""

    def __init__(self, instance, name, kind):
        key = (instance, name)
        sign = 1 if uniform(*key, "sign") < 0.5 else -1
        self.kind = kind  # unread, neutral, tuned or improvable
        self.optimum = 0.0
        self.curvature = 0.0
        if kind == "tuned":
            self.optimum = sign * 0.1 * uniform(*key, "optimum")
            self.curvature = RESIDUAL_SD * log_uniform(1, 8, *key, "curvature")
        if kind == "improvable":
            self.optimum = sign * (0.6 + 0.8 * uniform(*key, "optimum"))
            self.curvature = RESIDUAL_SD * log_uniform(0.5, 4, *key, "gain") / self.optimum**2
        self.slope_sd = 0.0 if kind == "unread" else RESIDUAL_SD * log_uniform(0.1, 1.5, *key, "slope")
        self.bias = 0.0 if kind == "unread" else BIAS_SD * normal(*key, "bias")
        self.cliff = -sign * (0.45 + 1.55 * uniform(*key, "cliff"))  # away from the optimum

    def effect(self, z):
        """Return the main effect at z doublings: 0 at the base, lowest at the optimum, harm limited."""
        bowl = self.curvature * (z * z - 2 * z * self.optimum)
        return HARM_LIMIT * math.tanh(bowl / HARM_LIMIT) if bowl > 0 else bowl


@lru_cache(maxsize=64)
def law(instance):
    """Return (knobs by name, crashing names, {(name, name): strength of the pair}) of an instance."""
    shuffled = sorted(BASE, key=lambda name: uniform(instance, name, "kind"))
    kinds = ["unread"] * N_UNREAD + ["neutral"] * N_NEUTRAL + ["tuned"] * N_TUNED
    kinds += ["improvable"] * (len(BASE) - len(kinds))
    knobs = {name: Knob(instance, name, kind) for name, kind in zip(shuffled, kinds, strict=True)}
    read = shuffled[N_UNREAD:]
    crashing = sorted(read, key=lambda name: uniform(instance, name, "crash"))[:N_CRASHING]
    pairs = [(a, b) for i, a in enumerate(read) for b in read[:i]]
    chosen = sorted(pairs, key=lambda pair: uniform(instance, pair, "pair"))[:N_PAIRS]
    strengths = {pair: 1.5 * RESIDUAL_SD * normal(instance, pair, "strength") for pair in chosen}
    return knobs, frozenset(crashing), strengths


def doublings(name, value):
    """Return log2(value / base), or of their distances to 1 if the base is near it. TooFar if undefined."""
    near_one = BASE[name] != 1 and 0.8 <= BASE[name] <= 1.2
    ratio = (1 - value) / (1 - BASE[name]) if near_one else value / BASE[name]
    if ratio <= 0:
        raise TooFar(f"{name} = {value}: must stay on its side of {1 if near_one else 0}")
    return math.log2(ratio)


def moves_of(instance, values):
    """Return {name: doublings} of the knobs that were moved and are read. TooFar beyond a cliff."""
    knobs, crashing, _ = law(instance)
    moves = {}
    for name, value in values.items():
        if value == BASE[name] or knobs[name].kind == "unread":
            continue
        z = doublings(name, value)
        cliff = knobs[name].cliff
        if name in crashing and z * cliff > cliff * cliff:
            raise TooFar(f"{name} = {value}: the loss overflowed")
        moves[name] = z
    return moves


def truth(instance, values):
    """Return the noise-free f. `values`: {name: number}, knobs left out stay at the base. TooFar if it crashes."""
    knobs, _, strengths = law(instance)
    moves = moves_of(instance, values)
    mains = sum(knobs[name].effect(z) for name, z in moves.items())
    pairs = sum(s * moved(moves[a]) * moved(moves[b]) for (a, b), s in strengths.items() if a in moves and b in moves)
    return BASE_LOSS + mains + pairs


def score(instance, values, tree_key, seed, steps=FULL_STEPS):
    """Return the loss as a run reports it. `tree_key` names the text that was scored, whatever it says."""
    knobs = law(instance)[0]
    moves = moves_of(instance, values)
    shortfall = math.sqrt(FULL_STEPS / steps) - 1  # 0 at full steps, 2.16 at 100
    bias = shortfall * (0.05 + sum(knobs[name].bias * moved(z) for name, z in moves.items()))
    block = BLOCK_SD * normal(instance, "block", seed)
    slopes = sum(knobs[n].slope_sd * moved(z) * normal(instance, n, "seed", seed) for n, z in moves.items())
    residual_sd = RESIDUAL_SD * (FULL_STEPS / steps) ** 0.25
    return truth(instance, values) + bias + block + slopes + residual_sd * normal(instance, tree_key, seed, steps)


def read_values(text):
    """Return {name: number} of the knobs that this text of knobs.py sets, wherever it sets them."""
    names = {}
    exec(compile(text, "knobs.py", "exec"), names)
    found = {**names, **names["schedule"](), **names["OPTIMISER"]}
    return {name: found[name] for name in BASE}


def main(arguments):
    """Score the knobs.py beside this file and write result.json into the current directory."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    text = pathlib.Path(__file__).with_name("knobs.py").read_text()
    tree_key = hashlib.sha256(text.encode()).hexdigest()
    steps = int(options["--steps"])
    loss = score(int(options["--instance"]), read_values(text), tree_key, int(options["--seed"]), steps)
    pathlib.Path("result.json").write_text(json.dumps({"loss": loss}))
    print(f"loss: {loss:.6f} after {steps} steps")


if __name__ == "__main__":
    main(sys.argv[1:])
