"""Benchmarks, each a module with `main()`: `./dev bench` runs all, `./dev bench pods` one.

Every figure that is compared comes from one run in which we and the peer alternate, so that what else the
machine does touches both alike. The results are kept in docs/performance.md as they were printed.
"""
