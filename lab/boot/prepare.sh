#!/bin/sh
# Makes a disk with a Debian on which DKMS has built the module: prepare.sh ROOT WORK OLD.deb NEW.deb TOOL-OLD.deb
# TOOL-NEW.deb IMAGE. ROOT is a Debian with an init, WORK a directory for a copy of it. OLD and NEW are two
# versions of cohmem-dkms: the first is installed, the second upgrades it. Needs root, in a mount namespace of
# its own.
set -eu
root=$1 work=$2 old=$3 new=$4 tool_old=$5 tool_new=$6 image=$7
here=$(dirname "$0")

rm -rf "$work"
cp -a --reflink=auto "$root" "$work"
mount -t proc proc "$work/proc"
mkdir "$work/opt/cohmem"
cp "$old" "$work/opt/cohmem/dkms-old.deb"
cp "$new" "$work/opt/cohmem/dkms-new.deb"
cp "$tool_old" "$work/opt/cohmem/old.deb"
cp "$tool_new" "$work/opt/cohmem/new.deb"
cp "$here/steps.sh" "$work/opt/cohmem/steps.sh"
cp "$here/cohmem-steps.service" "$work/etc/systemd/system/"
mkdir -p "$work/etc/systemd/system/multi-user.target.wants"
ln -s ../cohmem-steps.service "$work/etc/systemd/system/multi-user.target.wants/"

# check VERSION: the module of that version, and no other, is built and installed.
check() {
    status=$(chroot "$work" dkms status -m cohmem)
    echo "-- $status"
    case $status in
    "cohmem/$1, "*": installed") ;;
    *) exit 1 ;;
    esac
}

for deb in old new; do
    if ! chroot "$work" dpkg -i "/opt/cohmem/dkms-$deb.deb"; then
        cat "$work"/var/lib/dkms/cohmem/*/build/make.log
        exit 1
    fi
    check "$(dpkg-deb -f "$work/opt/cohmem/dkms-$deb.deb" Version)"
done

umount "$work/proc"
rm -f "$image"
mke2fs -q -t ext4 -d "$work" "$image" 3G
