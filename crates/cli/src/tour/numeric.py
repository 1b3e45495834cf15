# Multiplies and adds, over and over, every number of a large array, and says a checksum each round
# in which each number counts by its place. All of it is exact, in 64 bits, so that the tour knows
# every checksum beforehand. Its arguments: numbers in the array, factor, summand.
import sys

try:
    import numpy
except ImportError as error:
    sys.exit(f"numpy is not installed: {error}")

count, factor, summand = int(sys.argv[1]), numpy.uint64(sys.argv[2]), numpy.uint64(sys.argv[3])
numbers = numpy.arange(count, dtype=numpy.uint64)
rows = numbers.reshape(-1, 512)
weights = numpy.arange(1, len(rows) + 1, dtype=numpy.uint64)
print("ready", flush=True)
while True:
    numbers *= factor
    numbers += summand
    checksum = (rows.sum(axis=1) * weights).sum()
    print(f"{checksum:016x}", flush=True)
