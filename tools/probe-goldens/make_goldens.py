"""Reference numbers for the probes: scikit-learn where it has the estimator, NumPy in float64 where it has not.

    pip install -r requirements.txt
    python make_goldens.py ../../test/fixtures/probes/goldens.json

Features are drawn from a seeded generator, rounded to float32 and stored with the results, so that the tests compute
on the same numbers. Nothing here imports or imitates the TypeScript code: each result is the textbook formula.
"""

import json
import sys

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

ROWS, FEATURES, CLASSES, GROUPS = 60, 8, 3, 20


def features(rng, rows, columns):
    mixing = rng.normal(size=(columns, columns))
    return (rng.normal(size=(rows, columns)) @ mixing + rng.normal(size=columns) * 3).astype(np.float32)


def listed(array):
    return np.asarray(array, dtype=np.float64).ravel().tolist()


def ridge(x, y, penalty):
    """Minimises (1/n) sum (w.z + b - y)^2 + penalty |w|^2 over standardised z; weights of the features as given."""
    scaler = StandardScaler().fit(x)
    fitted = Ridge(alpha=penalty * len(x), solver="svd").fit(scaler.transform(x), y)
    weights = np.atleast_2d(fitted.coef_) / scaler.scale_
    bias = np.atleast_1d(fitted.intercept_) - weights @ scaler.mean_
    return {"penalty": penalty, "weights": listed(weights), "bias": listed(bias)}


def logistic(x, classes, penalty):
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression(C=1 / (len(x) * penalty), tol=1e-12, max_iter=20000).fit(scaler.transform(x), classes)
    weights = fitted.coef_ / scaler.scale_
    bias = fitted.intercept_ - weights @ scaler.mean_
    # A softmax is the same with one vector added to all classes; the penalty fixes the weights, nothing the biases.
    return {"penalty": penalty, "weights": listed(weights), "bias": listed(bias - bias.mean() * (len(bias) > 1))}


def adam(x, classes, start, epochs, rate):
    """Full-batch Adam on the mean of (w.x - y)^2 over rows and outputs; rows of length 1, no bias, one-hot targets."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.eye(start.shape[0])[classes]
    w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, epochs + 1):
        gradient = 2 / y.size * (x @ w.T - y).T @ x
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        w = w - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return w


def rfm_turn(x, y, metric, bandwidth, exponent, penalty, centre):
    n, d = x.shape
    differences = x[:, None, :] - x[None, :, :]
    squared = np.einsum("ijk,kl,ijl->ij", differences, metric, differences)
    distance = np.sqrt(np.maximum(squared, 0))
    kernel = np.exp(-((distance / bandwidth) ** exponent))
    alpha = np.linalg.solve(kernel + penalty * np.eye(n), y)
    gradients = np.zeros((n, d))
    for i in range(n):
        for j in range(n):
            if i != j:
                slope = exponent / bandwidth**exponent * distance[i, j] ** (exponent - 2)
                gradients[i] -= alpha[j] * kernel[i, j] * slope * (metric @ differences[i, j])
    if centre:
        gradients = gradients - gradients.mean(axis=0)
    learnt = gradients.T @ gradients / n
    return alpha, learnt * d / np.trace(learnt)


def main(path):
    rng = np.random.default_rng(20251)
    x = features(rng, ROWS, FEATURES)
    groups = np.arange(ROWS) % GROUPS
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    classes = np.argmax(z[:, :CLASSES] + rng.normal(size=(ROWS, CLASSES)), axis=1)
    binary = (z[:, 0] - z[:, 1] + rng.normal(size=ROWS) > 0).astype(int)
    values = 90 + 20 * z[:, 2] + 5 * rng.normal(size=ROWS)
    x64 = x.astype(np.float64)

    start = rng.normal(size=(CLASSES, FEATURES)) * 0.1
    signs = rng.choice([-1.0, 1.0], size=30)
    pairs = (x[:30] - x[30:]).astype(np.float32)
    component = PCA(1, svd_solver="full").fit(pairs.astype(np.float64) * signs[:, None]).components_[0]
    component *= np.sign(np.sign(pairs @ component).sum())

    y = binary - binary.mean()
    setting = {"bandwidth": 3.0, "exponent": 1.0, "penalty": 1e-3, "centre": True}
    alpha, metric = rfm_turn(z, y, np.eye(FEATURES), **setting)
    alpha2, metric2 = rfm_turn(z, y, metric, **setting)
    top = np.linalg.eigh(metric2)[1][:, -1]

    scores = rng.normal(size=(ROWS, CLASSES)) + 1.5 * np.eye(CLASSES)[classes]
    scores[::7] = np.round(scores[::7])  # ties
    guesses = values + rng.normal(size=ROWS) * 8
    indicator = np.eye(CLASSES)[classes]
    goldens = {
        "rows": ROWS,
        "features": FEATURES,
        "x": listed(x),
        "groups": groups.tolist(),
        "classes": classes.tolist(),
        "binary": binary.tolist(),
        "values": listed(values),
        "ridge": {
            "classes": ridge(x64, indicator, 0.05),
            "binary": ridge(x64, binary, 0.2),
            "values": ridge(x64, values, 0.01),
        },
        "logistic": {"classes": logistic(x64, classes, 0.02), "binary": logistic(x64, binary, 0.01)},
        "adam": {"start": listed(start), "weights": listed(adam(x64, classes, start, 250, 5e-3))},
        "means": listed([x64[classes == c].mean(axis=0) - x64[classes != c].mean(axis=0) for c in range(CLASSES)]),
        "covariance": listed((x64 - x64.mean(axis=0)).T @ (values - values.mean()) / ROWS),
        "pca": {"pairs": listed(pairs), "signs": listed(signs), "direction": listed(component)},
        "rfm": {
            "x": listed(z.astype(np.float32)),
            "y": listed(y),
            **setting,
            "alpha": [listed(alpha), listed(alpha2)],
            "metric": [listed(metric), listed(metric2)],
            "direction": listed(top),
        },
        "metrics": {
            "scores": listed(scores),
            "accuracy": float((scores.argmax(axis=1) == classes).mean()),
            "balancedAccuracy": float(balanced_accuracy_score(classes, scores.argmax(axis=1))),
            "auc": float(np.mean([roc_auc_score(classes == c, scores[:, c]) for c in range(CLASSES)])),
            "guesses": listed(guesses),
            "r2": float(r2_score(values, guesses)),
        },
    }
    with open(path, "w") as file:
        json.dump(goldens, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
