"""Records what H-Net's routing and MAGNET's losses give, by the papers' formulas in plain Python: no NumPy, no JAX.

    python3 tests/selection/recorded/record.py > tests/selection/recorded/schemes.json

H-Net (Hwang et al. 2025, section 2.2): p_t = (1 - cos(W_q x_{t-1}, W_k x_t)) / 2, p_1 = 1, b_t = [p_t >= 0.5],
ratio loss N / (N - 1) ((N - 1) F G + (1 - F)(1 - G)), F the share of b, G the mean of p.
MAGNET (Ahia et al. 2024, section 3): Binomial(beta; l, k) = C(l, k) beta^k (1 - beta)^(l - k) of k boundaries in l
bytes, of each script by its own beta; the loss is its negative logarithm, divided by the length. An example in two
scripts adds both up.
"""

import itertools
import json
import math
import random

EMBED, MLP = 8, 10
PRIORS = {"latin": 0.2, "devanagari": 0.08, "cyrillic": 0.1}
TEXTS = {
    "latin": "born free",
    "cyrillic": "\u0412\u0441\u0435 \u043b\u044e\u0434\u0438",
    "devanagari": "सभी मनुष्य",
    "two": "abc где",
}


def matrix(rng, rows, columns):
    return [[rng.gauss(0, 1) for _ in range(columns)] for _ in range(rows)]


def times(vector, kernel):
    return [sum(x * row[column] for x, row in zip(vector, kernel, strict=True)) for column in range(len(kernel[0]))]


def cosine(one, other):
    norm = math.sqrt(sum(x * x for x in one)) * math.sqrt(sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / norm


def hnet(rng):
    states, query, key, ratio = matrix(rng, 11, EMBED), matrix(rng, EMBED, EMBED), matrix(rng, EMBED, EMBED), 3.0
    p = [1.0]
    for before, state in itertools.pairwise(states):
        p.append((1 - cosine(times(before, query), times(state, key))) / 2)
    share, mean = sum(x >= 0.5 for x in p) / len(p), sum(p) / len(p)
    loss = ratio / (ratio - 1) * ((ratio - 1) * share * mean + (1 - share) * (1 - mean))
    return {"states": states, "query": query, "key": key, "downsampling": ratio, "p": p, "loss": loss}


def scripts(data):
    """Of each byte; here by hand, since each text is in one script or changes at its first letter of the other."""
    found, script = [], "latin"
    for position, byte in enumerate(data):
        if chr(byte).isalpha() and byte < 128:
            script = "latin"
        elif 0xD0 <= byte <= 0xD3:
            script = "cyrillic"
        elif byte in (0xA4, 0xA5) and position and data[position - 1] == 0xE0:
            script = "devanagari"
        found.append(script)
    return found


def magnet(rng):
    names = list(PRIORS)
    params = {
        "scale": [1 + 0.1 * rng.gauss(0, 1) for _ in range(EMBED)],
        "wi_kernel": matrix(rng, EMBED, 3 * MLP),
        "wi_bias": [rng.gauss(0, 1) for _ in range(3 * MLP)],
        "wo_kernel": matrix(rng, 3, MLP),
        "wo_bias": [rng.gauss(0, 1) for _ in range(3)],
    }
    rows = []
    for text in TEXTS.values():
        data = text.encode()
        states, of = matrix(rng, len(data), EMBED), scripts(data)
        ends = []
        for state, script in zip(states, of, strict=True):
            root = math.sqrt(sum(x * x for x in state) / EMBED + 1e-6)
            inner = times([x / root * s for x, s in zip(state, params["scale"], strict=True)], params["wi_kernel"])
            number = names.index(script)
            part = range(number * MLP, (number + 1) * MLP)
            active = [inner[i] + params["wi_bias"][i] for i in part]
            active = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in active]
            logit = sum(x * w for x, w in zip(active, params["wo_kernel"][number], strict=True))
            logit += params["wo_bias"][number]
            ends.append(logit > 0)
        ends[-1] = True
        loss = 0.0
        for script, prior in PRIORS.items():
            size = of.count(script)
            count = sum(end for end, name in zip(ends, of, strict=True) if name == script)
            loss -= math.log(math.comb(size, count) * prior**count * (1 - prior) ** (size - count))
        rows.append({"text": text, "states": states, "ends": ends, "loss": loss / len(data)})
    return {"priors": PRIORS, "params": params, "rows": rows}


if __name__ == "__main__":
    source = random.Random(27)
    print(json.dumps({"hnet": hnet(source), "magnet": magnet(source)}))
