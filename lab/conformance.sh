#!/bin/sh
# Runs the conformance suite on the backends that the host has not, inside the lab's guest: the driver on a
# soft-reserved range, and the NUMA node that the range is on.
# usage: conformance.sh COHMEM SUITE
set -eu
cohmem=$1
suite=$2

run() {
    echo "== conformance: $*"
    "$suite" --quiet --backend "$@"
}

"$cohmem" attach
run driver
"$cohmem" detach 0
run numa:1
