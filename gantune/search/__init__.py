"""The search: Optuna proposes, Ray Tune executes, the run directory remembers."""
