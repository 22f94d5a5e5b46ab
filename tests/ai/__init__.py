"""Tests of hostile texts and of what language models never get to see."""
