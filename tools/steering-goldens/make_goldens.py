"""Golden numbers for the steering operators, straight from their formulas in NumPy float64.

    python3 tools/steering-goldens/make_goldens.py > test/fixtures/steering/operators.json

Every operator is worked out position by position, as papers write it, and not in the fused form that tonearm runs.
"""

import json

import numpy as np

rng = np.random.default_rng(20261122)
ROWS, POSITIONS, HEADS, WIDTH = 2, 3, 2, 4


def unit(v):
    return v / np.linalg.norm(v)


def convex(h, steps):
    """(h + |h| sum s v) / (1 + sum |s|)"""
    total = sum(abs(s) for s, _ in steps)
    return (h + np.linalg.norm(h) * sum(s * unit(v) for s, v in steps)) / (1 + total)


def add(h, s, v, size):
    return h + s * size * unit(v)


def add_raw(h, s, v):
    return h + s * v


def clamp(h, s, v, target):
    return h + s * (target - h @ unit(v)) * unit(v)


def replace(h, s, mean):
    return (1 - s) * h + s * mean


def adjust(h, s, mean, minus):
    return h + s * (mean - minus)


def span(h, s, mean, others, start, beyond):
    """h + s P (goal - h), P the projector on the span of the differences of means, goal = start + beyond (mean - start)"""
    differences = np.stack([mean - other for other in others], 1)
    projector = differences @ np.linalg.pinv(differences)
    return h + s * projector @ (start + beyond * (mean - start) - h)


def restore(h, after):
    return after * np.linalg.norm(h) / np.linalg.norm(after)


def everywhere(h, strengths, step):
    """Applies step(h, s, unit) at each row, position and unit; a strength of 0 leaves the activation alone."""
    out = h.copy()
    for index in np.ndindex(h.shape[:-1]):
        s = strengths[index[0]][index[1]]
        if s != 0:
            out[index] = step(h[index], s, index[2] if len(index) == 3 else 0)
    return out


def case(name, intervention, result):
    return {"name": name, "steer": intervention, "expected": result.astype(np.float64).ravel().tolist()}


cases = {}
for kind, units, shape in (("residual", 1, (ROWS, POSITIONS, WIDTH)), ("heads", HEADS, (ROWS, POSITIONS, HEADS, WIDTH))):
    h = rng.normal(size=shape).astype(np.float32).astype(np.float64)
    a, b, mean_a, mean_b = (rng.normal(size=(units, WIDTH)).astype(np.float32).astype(np.float64) for _ in range(4))
    norm, deviation, score = (rng.uniform(0.5, 2, size=units).astype(np.float32).astype(np.float64) for _ in range(3))
    # Row 0 is conditional, row 1 is not; the strength ramps linearly from half to all of it over 3 frames.
    ramp = np.array([0.5 + 0.5 * p / 3 for p in range(POSITIONS)])
    cond = lambda s: np.array([s * ramp, 0 * ramp])
    both = lambda s: np.array([s * ramp, s * ramp])
    c = []
    c.append(case("convex", [{"operator": "convex", "strength": 0.5}],
                  everywhere(h, cond(0.5), lambda x, s, u: convex(x, [(s, a[u])]))))
    c.append(case("convex, negative", [{"operator": "convex", "strength": -0.7, "rows": "all"}],
                  everywhere(h, both(-0.7), lambda x, s, u: convex(x, [(s, a[u])]))))
    joint = h.copy()
    for index in np.ndindex(h.shape[:-1]):
        u = index[2] if units > 1 else 0
        steps = [(both(0.6)[index[0]][index[1]], a[u]), (cond(-0.3)[index[0]][index[1]], b[u])]
        joint[index] = convex(h[index], steps)
    c.append(case("two vectors jointly",
                  [{"operator": "convex", "strength": 0.6, "rows": "all"},
                   {"operator": "convex", "strength": -0.3, "concept": "b"}], joint))
    c.append(case("add, unit", [{"operator": "add", "unit": "unit", "strength": 2}],
                  everywhere(h, cond(2), lambda x, s, u: add(x, s, a[u], 1))))
    c.append(case("add, raw", [{"operator": "add", "unit": "raw", "strength": 1.5}],
                  everywhere(h, cond(1.5), lambda x, s, u: add_raw(x, s, a[u]))))
    c.append(case("add, norm", [{"operator": "add", "unit": "norm", "strength": 0.2, "rows": "all"}],
                  everywhere(h, both(0.2), lambda x, s, u: add(x, s, a[u], norm[u]))))
    c.append(case("add, deviation", [{"operator": "add", "unit": "deviation", "strength": 5}],
                  everywhere(h, cond(5), lambda x, s, u: add(x, s, a[u], deviation[u]))))
    c.append(case("add, source minus target", [{"operator": "add", "unit": "unit", "minus": "b", "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: add(x, s, unit(a[u]) - unit(b[u]), 1))))
    c.append(case("add, projected out", [{"operator": "add", "unit": "unit", "without": ["b"], "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: add(x, s, a[u] - (a[u] @ unit(b[u])) * unit(b[u]), 1))))
    c.append(case("clamp", [{"operator": "clamp", "target": 1.25, "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: clamp(x, s, a[u], 1.25))))
    c.append(case("clamp to the mean", [{"operator": "clamp", "target": "mean", "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: clamp(x, s, a[u], mean_a[u] @ unit(a[u])))))
    c.append(case("ablate", [{"operator": "ablate", "strength": 1, "rows": "all"}],
                  everywhere(h, both(1), lambda x, s, u: clamp(x, s, a[u], 0))))
    c.append(case("replace", [{"operator": "replace", "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: replace(x, s, mean_a[u]))))
    c.append(case("adjust", [{"operator": "adjust", "minus": "b", "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: adjust(x, s, mean_a[u], mean_b[u]))))
    c.append(case("span", [{"operator": "span", "strength": 1, "rows": "all"}],
                  everywhere(h, both(1), lambda x, s, u: span(x, s, mean_a[u], [mean_b[u]], mean_a[u], 1))))
    c.append(case("span, beyond the mean of all", [{"operator": "span", "beyond": 1.5, "strength": 1}],
                  everywhere(h, cond(1), lambda x, s, u: span(x, s, mean_a[u], [mean_b[u]], (mean_a[u] + mean_b[u]) / 2, 1.5))))
    c.append(case("span, beyond another mean", [{"operator": "span", "beyond": 1.5, "minus": "b", "strength": 0.8}],
                  everywhere(h, cond(0.8), lambda x, s, u: span(x, s, mean_a[u], [mean_b[u]], mean_b[u], 1.5))))
    c.append(case("convex, norm restored", [{"operator": "convex", "strength": 0.5, "restoreNorm": True}],
                  everywhere(h, cond(0.5), lambda x, s, u: restore(x, convex(x, [(s, a[u])])))))
    c.append(case("add, norm restored", [{"operator": "add", "unit": "norm", "strength": 1, "restoreNorm": True}],
                  everywhere(h, cond(1), lambda x, s, u: restore(x, add(x, s, a[u], norm[u])))))
    if units > 1:
        weights = ((score - score.min()) / (score.max() - score.min())) ** 3
        c.append(case("softly weighted heads",
                      [{"operator": "add", "unit": "deviation", "strength": 5, "weighting": {"power": 3}}],
                      everywhere(h, cond(5), lambda x, s, u: add(x, s * weights[u], a[u], deviation[u]))))
        c.append(case("the best head, convex", [{"operator": "convex", "strength": 0.5, "weighting": {"top": 1}}],
                      everywhere(h, cond(0.5), lambda x, s, u: convex(x, [(s, a[u])]) if u == score.argmax() else x)))
    flat = lambda x: np.asarray(x).ravel().tolist()
    cases[kind] = {
        "shape": shape, "h": flat(h), "directions": flat([a, b]), "mean": flat([mean_a, mean_b]),
        "norm": flat(norm), "deviation": flat([deviation, deviation]), "score": flat(score), "cases": c,
    }

print(json.dumps({"made by": "tools/steering-goldens/make_goldens.py, NumPy float64", **cases}))
