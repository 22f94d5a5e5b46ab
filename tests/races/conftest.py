"""How often the catalogue of races is played."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --rounds."""
    parser.addoption(
        "--rounds", type=int, default=1, help="How often each race is played (default 1)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play each race in every round."""
    if "round_number" in metafunc.fixturenames:
        rounds = metafunc.config.getoption("--rounds")
        metafunc.parametrize("round_number", range(1, rounds + 1))
