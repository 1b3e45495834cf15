#!/bin/sh
# Runs the conformance suite on every backend that the host has not, inside the lab's guest: the driver and
# real device-dax on the two soft-reserved ranges, and the NUMA node that they are on.
# usage: conformance.sh COHMEM SUITE
set -eu
cohmem=$1
suite=$2

# The second range is the driver's, the first is dax0.0.
"$cohmem" attach dax1.0
run() {
    echo "== conformance: $*"
    "$suite" --backend "$@" --quiet
}

run driver
"$cohmem" detach 0
run numa:1
run engine:/dev/dax0.0,level=1
run engine:/dev/dax0.0,level=3

# The same memory in pages of 4 KiB.
driver=/sys/bus/dax/drivers/device_dax
echo dax0.0 >$driver/unbind
echo 4096 >/sys/bus/dax/devices/dax0.0/align
echo dax0.0 >$driver/bind
run engine:/dev/dax0.0,level=1

for level in 1 2 3; do
    run "engine:32M,level=$level"
done
