"""The recipe of tonearm's demo checkpoint: compose, render, train a codec and a language model, export, evaluate."""
