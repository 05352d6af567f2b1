"""`python -m ode_rl` is the command `ode-rl`."""

from ode_rl.cli import run

if __name__ == "__main__":
    run()
