"""Tests of ness.OS, ordered by what they prove."""
