#!/bin/sh
# Runs the kernel's suite for device memory on each module in turn: `selftest.sh SUITE NAME=MODULE...`.
# Each module gets the lab's two soft-reserved ranges. The suite's own verdicts are the result: this fails
# only when a module cannot be loaded or unloaded.
set -eu

# The suite wants a tmpfs at /tmp, where the tree itself may be.
files=/run/selftest
mkdir $files
for entry; do
    cp "${entry#*=}" $files
done
suite=$files/$(basename "$1")
shift
mount -t tmpfs tmpfs /tmp
echo 64 >/proc/sys/vm/nr_hugepages

run() {
    "$suite" "$@" >/run/suite.log 2>&1 || true
    cat /run/suite.log
}

# The suite gives each test 30 s, which an emulated machine on a busy host may exceed: only those that ran
# out of time run again.
late() {
    sed -n 's/^# \([a-z0-9_]*\): Test terminated by timeout$/\1/p' /run/suite.log | while read -r test; do
        sed -n "s/^not ok [0-9]* \(.*\.$test\)$/\1/p" /run/suite.log
    done
}

# Both memory types, where the kernel has private memory.
variants=
if grep -q ' make_device_exclusive' /proc/kallsyms; then
    # Before Linux 6.15 a part of a large folio cannot be had exclusively, which the suite takes for granted.
    echo madvise >/sys/kernel/mm/transparent_hugepage/enabled
else
    variants="-v hmm_device_coherent -v hmm2_device_coherent"
fi

for entry; do
    module=$(basename "${entry#*=}")
    insmod "$files/$module" spm_addr_dev0=0x140000000 spm_addr_dev1=0x180000000
    echo "device ${entry%%=*}"
    run $variants
    for name in $(late); do
        for attempt in 1 2 3; do
            run -r "$name"
            [ -n "$(late)" ] || break
        done
    done
    rmmod "${module%.ko}"
    # What the kernel's own device leaks is not ours to judge.
    if [ "${entry%%=*}" = test_hmm ] && [ -w /sys/kernel/debug/kmemleak ]; then
        for attempt in 1 2; do
            sleep 6
            echo scan >/sys/kernel/debug/kmemleak
        done
        echo "leaked by test_hmm: $(grep -c unreferenced /sys/kernel/debug/kmemleak) objects" >&2
        echo clear >/sys/kernel/debug/kmemleak
    fi
done
