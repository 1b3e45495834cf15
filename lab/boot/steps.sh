#!/bin/sh
# The package `cohmem` on a Debian with an init: each boot is one step. What is said goes to the second
# serial port, with a verdict at the end.
set -eu
export DEBIAN_FRONTEND=noninteractive
conf=/etc/cohmem/attach.conf

say() {
    echo "-- $*"
}

verdict() {
    echo "verdict: $*"
    sync
    systemctl poweroff
    exit
}

fail() {
    systemctl --no-pager --full status cohmem-attach.service || true
    verdict "FAILED: $*"
}

next() {
    echo "$1" >/opt/cohmem/step
    sync
    systemctl reboot
}

# Both ranges are devices of the group.
check_attached() {
    udevadm settle
    for device in /dev/cohmem0 /dev/cohmem1; do
        [ -c $device ] || fail "there is no $device"
        [ "$(stat -c '%G %a' $device)" = "cohmem 660" ] || fail "$device is $(stat -c '%G %a' $device)"
    done
}

# Devices are there as long as the unit has not been stopped.
started() {
    systemctl show -p ActiveEnterTimestampMonotonic --value cohmem-attach.service
}

# The end of the boot, whatever else there may be on this Debian.
state=$(systemctl is-system-running --wait) || true
say "the system is $state"
if systemctl --failed --plain --no-legend | grep cohmem; then
    fail "a unit of ours has failed"
fi

case $(cat /opt/cohmem/step 2>/dev/null || echo install) in
install)
    say "installing"
    dpkg -i /opt/cohmem/old.deb || fail "dpkg"
    systemctl is-active --quiet cohmem-attach.service || fail "the unit is not active"
    [ -d /sys/module/cohmem ] || fail "the module is not loaded"
    grep -v '^#' $conf && fail "the file as it comes names something"
    printf '%s\n' 0x140000000+512M '0x180000000+512M altmap' >>$conf
    next boot
    ;;
boot)
    say "after a reboot the memory is attached"
    check_attached
    cohmem list
    say "an upgrade leaves it so"
    before=$(started)
    dpkg -i /opt/cohmem/new.deb || fail "dpkg"
    [ "$(started)" = "$before" ] || fail "the upgrade restarted the unit"
    check_attached
    grep -q altmap $conf || fail "$conf was overwritten"
    say "a restart detaches and attaches"
    systemctl restart cohmem-attach.service || fail "the restart"
    [ "$(started)" != "$before" ] || fail "the restart did nothing"
    check_attached
    say "a unit that is disabled stays so over an upgrade"
    systemctl disable cohmem-attach.service
    dpkg -i /opt/cohmem/new.deb || fail "dpkg"
    systemctl is-enabled --quiet cohmem-attach.service && fail "it is enabled again"
    next purge
    ;;
purge)
    say "after a reboot nothing is attached"
    [ ! -e /dev/cohmem0 ] || fail "a device is there"
    systemctl enable --now cohmem-attach.service || fail "the start"
    check_attached
    say "purging detaches and leaves nothing but the group"
    dpkg -P cohmem cohmem-dkms || fail "dpkg"
    [ ! -e /dev/cohmem0 ] || fail "a device is left"
    rmmod cohmem || fail "the module is in use"
    left=$(find /etc /usr/bin /usr/lib /usr/share /usr/src /var/lib -name '*cohmem*' \
        ! -path '/etc/systemd/system/*cohmem-steps*')
    [ -z "$left" ] || fail "left: $left"
    getent group cohmem >/dev/null || fail "the group is gone, files may belong to it"
    verdict ok
    ;;
esac
