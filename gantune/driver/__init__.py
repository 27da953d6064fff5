"""The driver of a search: Optuna proposes, Ray Tune executes, the run directory remembers."""
