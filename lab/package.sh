#!/bin/sh
# The package `cohmem` is installed, changed, upgraded, removed and purged, by dpkg and the scripts that it
# brings, on a Debian with no init running: package.sh OLD.deb NEW.deb MODULE.
set -eu
old=$1 new=$2 module=$3

say() {
    echo "-- $*"
}

fail() {
    echo "FAILED: $*"
    exit 1
}

# --no-triggers: man-db would look at every page of the host.
install() {
    dpkg --no-triggers --force-confold -i "$1"
}

version() {
    dpkg-query -W -f '${db:Status-Status} ${Version}' cohmem
}

conf=/etc/cohmem/attach.conf
wanted=/etc/systemd/system/multi-user.target.wants/cohmem-attach.service

say "installing"
install "$old"
getent group cohmem >/dev/null || fail "there is no group cohmem"
[ -L $wanted ] || fail "the unit is not enabled"
cohmem --version >/dev/null
[ "$(command -v cohmem)" ] || fail "the command is not in the PATH"
/usr/bin/cohmem attach --file $conf | grep -q 'names nothing' ||
    fail "an unchanged $conf attaches something"
systemd-analyze verify --man=no --recursive-errors=no /usr/lib/systemd/system/cohmem-attach.service 2>&1 |
    grep cohmem && fail "systemd complains about the unit"

say "running its script again changes nothing"
find /etc/systemd /var/lib/systemd/deb-systemd-helper* /etc/group | sort >/run/before
DPKG_MAINTSCRIPT_PACKAGE=cohmem /var/lib/dpkg/info/cohmem.postinst configure 0.0
find /etc/systemd /var/lib/systemd/deb-systemd-helper* /etc/group | sort >/run/after
cmp /run/before /run/after

say "attaching what the file names, with the module that DKMS built"
insmod "$module"
echo all >>$conf
/usr/bin/cohmem attach --file $conf
[ "$(/usr/bin/cohmem list --json | grep -c '"type": "device"')" = 2 ] ||
    fail "not both ranges are attached"

say "an upgrade keeps the devices, the changed file, and a unit that was disabled"
rm $wanted
install "$new"
[ "$(version)" = "installed $(dpkg-deb -f "$new" Version)" ] || fail "it is $(version)"
[ -c /dev/cohmem1 ] || fail "a device is gone"
grep -qx all $conf || fail "$conf was overwritten"
[ ! -e $wanted ] || fail "the disabled unit is enabled again"
/usr/bin/cohmem detach --all
[ ! -e /dev/cohmem0 ] || fail "a device is left"
rmmod cohmem

say "removing leaves what was configured"
dpkg --no-triggers -r cohmem
[ ! -e /usr/bin/cohmem ] || fail "the command is left"
[ -e $conf ] || fail "$conf is gone"

say "purging leaves nothing but the group"
dpkg --no-triggers -P cohmem
[ ! -e /etc/cohmem ] || fail "/etc/cohmem is left"
[ ! -e /etc/modprobe.d/cohmem.conf ] || fail "/etc/modprobe.d/cohmem.conf is left"
left=$(find /etc/systemd /usr/lib/systemd /usr/lib/udev /var/lib/systemd /var/lib/dpkg/info \
    -name '*cohmem*')
[ -z "$left" ] || fail "left: $left"
getent group cohmem >/dev/null || fail "the group is gone, files may belong to it"
say "done"
