// SPDX-License-Identifier: GPL-2.0
//! The attributes of a device below `/sys/class/cohmem/cohmemN`.

use core::{
    ffi::{c_char, c_int},
    mem::MaybeUninit,
    ptr,
};

use cohmem_kcore::Errno;
use cohmem_ksys::KernelStatic;

use super::entry;
use crate::attributes::{self, NR_SHOWN, SHOWN, Value};

/// The kernel's object of each of [`SHOWN`]; its `var` is the index.
static ATTRIBUTES: KernelStatic<[bindings::dev_ext_attribute; NR_SHOWN]> =
    // SAFETY: null pointers and zero modes are values of the type.
    KernelStatic::new(unsafe { MaybeUninit::zeroed().assume_init() });

/// Ends with a null pointer.
static LIST: KernelStatic<[*mut bindings::attribute; NR_SHOWN + 1]> =
    KernelStatic::new([ptr::null_mut(); NR_SHOWN + 1]);

static GROUP: KernelStatic<bindings::attribute_group> =
    // SAFETY: null pointers: no name, no callbacks, no attributes yet.
    KernelStatic::new(unsafe { MaybeUninit::zeroed().assume_init() });

static GROUPS: KernelStatic<[*const bindings::attribute_group; 2]> =
    KernelStatic::new([GROUP.get().cast_const(), ptr::null()]);

/// The groups of a device's attributes.
pub(crate) fn groups() -> *mut *const bindings::attribute_group {
    GROUPS.get().cast()
}

/// Fills the groups in. Called once, before there is a device.
pub(crate) fn init() {
    let attributes = ATTRIBUTES.get().cast::<bindings::dev_ext_attribute>();
    let list = LIST.get().cast::<*mut bindings::attribute>();
    for (index, shown) in SHOWN.iter().enumerate() {
        let attribute = attributes.wrapping_add(index);
        // SAFETY: `index` is below the number of attributes, and the kernel does not know them yet; the
        // name is a static text.
        unsafe {
            bindings::cohmem_attribute_fill(
                attribute,
                shown.name.as_ptr(),
                shown.mode,
                Some(show),
                ptr::without_provenance_mut(index),
            );
        }
        // An attribute's first member is the device attribute, whose first member is the attribute.
        // SAFETY: the list is longer than the attributes are many.
        unsafe { list.wrapping_add(index).write(attribute.cast()) };
    }
    // SAFETY: the kernel does not know the group yet; the list is static and ends with a null pointer.
    unsafe { bindings::cohmem_attribute_group_fill(GROUP.get(), list) };
}

extern "C" fn show(
    device: *mut bindings::device,
    attribute: *mut bindings::device_attribute,
    buffer: *mut c_char,
) -> isize {
    // SAFETY: the kernel passes one of `ATTRIBUTES`, whose members never change.
    let index = unsafe { (*attribute.cast::<bindings::dev_ext_attribute>()).var }.addr();
    // SAFETY: the kernel passes a device of our class, made by `publish`.
    let minor = unsafe { bindings::cohmem_device_minor(device) };
    let number = minor.wrapping_sub(1);
    let value = entry::with_driver(|driver| attributes::read(driver, number, index));
    match value.unwrap_or(Err(Errno::ENODEV)) {
        Ok(Value::Number(number)) => {
            // SAFETY: the kernel passes a buffer of a page; the format takes one number of this type.
            emitted(unsafe { bindings::sysfs_emit(buffer, c"%llu\n".as_ptr(), number) })
        }
        Ok(Value::Address(address)) => {
            // SAFETY: as above.
            emitted(unsafe { bindings::sysfs_emit(buffer, c"%#llx\n".as_ptr(), address) })
        }
        Ok(Value::Word(word)) => {
            // SAFETY: as above; the format takes one string.
            emitted(unsafe { bindings::sysfs_emit(buffer, c"%s\n".as_ptr(), word.as_ptr()) })
        }
        Err(errno) => errno.to_result() as isize,
    }
}

const fn emitted(nr_bytes: c_int) -> isize {
    nr_bytes as isize
}
