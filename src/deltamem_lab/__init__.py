"""The laboratory: benchmarks, methods and controls, sweeps and reports.

It knows the product, ``deltamem``; the product does not know it.
"""
