"""Streams from elsewhere: Avalanche's classic benchmarks, data sets of torchvision, functions of users."""
