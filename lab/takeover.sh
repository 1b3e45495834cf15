#!/bin/sh
# Takes memory over from the kernel's dax drivers, uses it, gives it back, and looks at what is left.
# Runs in the lab: `takeover.sh device_dax` with --dax, `takeover.sh kmem` with --kmem.
set -eu
driver=$1

fail() {
    echo "takeover: $*" >&2
    exit 1
}

# What the range is: the driver that dax0.0 is bound to, and how much of it is System RAM.
state() {
    bound=$(readlink /sys/bus/dax/devices/dax0.0/driver || echo none)
    echo "$(basename "$bound") $(grep -c 'System RAM (kmem)' /proc/iomem || true)"
}

before=$(state)
[ "${before%% *}" = "$driver" ] || fail "dax0.0 is bound to $before, not to $driver"

said=$(cohmem attach dax0.0)
echo "$said"
echo "$said" | grep -q "over from dax0.0 ($driver" || fail "attach does not say what it took over"
[ -e /dev/cohmem0 ] || fail "there is no /dev/cohmem0"
[ "$(state)" = "none 0" ] || fail "the dax driver still has the range: $(state)"

cohmem run --device 0 --interval 100ms -- sh -c 'x=$(head -c 4000000 /dev/zero | tr "\0" a); sleep 1; [ ${#x} = 4000000 ]' ||
    fail "a program's memory does not survive"
[ "$(cat /sys/class/cohmem/cohmem0/moved_in)" -gt 500 ] || fail "no page went to the device"

if cohmem attach dax0.0; then fail "it was taken over twice"; fi

said=$(cohmem detach 0)
echo "$said"
echo "$said" | grep -q "back to dax0.0 ($driver)" || fail "detach does not say that it gave it back"
[ "$(state)" = "$before" ] || fail "before it was $before, now it is $(state)"
[ ! -e /dev/cohmem0 ] || fail "/dev/cohmem0 is still there"
echo "takeover: $driver had it, and has it again"
