#!/bin/sh
# Runs the engine on real device memory: /dev/dax0.0 of a soft-reserved range, aligned to 2 MiB and to 4 KiB,
# with full userfaultfd, with userfaultfd for user mode only and with none; then on huge pages.
# usage: dax.sh SUITE XTASK DAX-TESTS HUGE-PAGE-TESTS
set -eu
device=dax0.0
drivers=/sys/bus/dax/drivers/device_dax

fail() {
    echo "dax: $*" >&2
    exit 1
}

# Programs where any user may run them.
programs=/run/dax
mkdir $programs
for program; do
    cp "$program" $programs
done
chmod -R 755 $programs
suite=$programs/$(basename "$1")
xtask=$programs/$(basename "$2")
tests=$programs/$(basename "$3")
huge=$programs/$(basename "$4")
cd /

unprivileged() {
    setpriv --clear-groups --reuid 65534 --regid 65534 --inh-caps=-all "$@"
}

# conforms LEVEL COMMAND...: the suite ends well, and ran at that level.
conforms() {
    level=$1
    shift
    echo "== conformance: engine:/dev/$device, alignment $align, level $level"
    "$@" >/run/suite.log || {
        cat /run/suite.log
        fail "the suite at level $level, alignment $align"
    }
    grep -q "of /dev/$device, level $level " /run/suite.log || fail "not at level $level: $(head -1 /run/suite.log)"
    grep '^test result' /run/suite.log
}

for align in 2097152 4096; do
    echo $device >$drivers/unbind
    echo $align >/sys/bus/dax/devices/$device/align
    echo $device >$drivers/bind
    chmod 666 /dev/$device
    backend=engine:/dev/$device
    conforms 1 "$suite" --quiet --backend $backend
    conforms 2 unprivileged "$suite" --quiet --backend $backend
    conforms 3 "$xtask" without-userfaultfd -- \
        setpriv --clear-groups --reuid 65534 --regid 65534 --inh-caps=-all "$suite" --quiet --backend $backend
    echo "== stress: /dev/$device, alignment $align"
    COHMEM_DAX=/dev/$device "$tests" --test-threads 1
    COHMEM_DAX=/dev/$device unprivileged "$tests" --test-threads 1
done

echo "== a device that is unbound"
COHMEM_DAX_TO_UNBIND=$device "$tests" --test-threads 1 unbound

echo "== huge pages"
echo 16 >/proc/sys/vm/nr_hugepages
COHMEM_HUGE_PAGES=must "$huge"
COHMEM_HUGE_PAGES=must unprivileged "$huge"
