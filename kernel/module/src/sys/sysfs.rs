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
    KernelStatic::new(attributes_of_shown());

static LIST: KernelStatic<[*mut bindings::attribute; NR_SHOWN + 1]> = KernelStatic::new(list());

static GROUP: KernelStatic<bindings::attribute_group> =
    KernelStatic::new(bindings::attribute_group {
        attrs: LIST.get().cast(),
        // SAFETY: null pointers: no name, no callbacks, no binary attributes.
        ..unsafe { MaybeUninit::zeroed().assume_init() }
    });

static GROUPS: KernelStatic<[*const bindings::attribute_group; 2]> =
    KernelStatic::new([GROUP.get().cast_const(), ptr::null()]);

/// The groups of a device's attributes.
pub(crate) fn groups() -> *mut *const bindings::attribute_group {
    GROUPS.get().cast()
}

const fn attributes_of_shown() -> [bindings::dev_ext_attribute; NR_SHOWN] {
    // SAFETY: null pointers and zero modes are values of the type.
    let mut attributes: [bindings::dev_ext_attribute; NR_SHOWN] =
        unsafe { MaybeUninit::zeroed().assume_init() };
    let mut index = 0;
    while index < NR_SHOWN {
        attributes[index].attr.attr.name = SHOWN[index].name.as_ptr();
        attributes[index].attr.attr.mode = SHOWN[index].mode;
        attributes[index].attr.show = Some(show);
        attributes[index].var = ptr::without_provenance_mut(index);
        index += 1;
    }
    attributes
}

const fn list() -> [*mut bindings::attribute; NR_SHOWN + 1] {
    let first = ATTRIBUTES.get().cast::<bindings::dev_ext_attribute>();
    let mut list = [ptr::null_mut(); NR_SHOWN + 1];
    let mut index = 0;
    while index < NR_SHOWN {
        // SAFETY: `index` is below the number of attributes.
        let attribute = unsafe { first.add(index) };
        // An attribute's first member is the device attribute, whose first member is the attribute.
        list[index] = attribute.cast();
        index += 1;
    }
    list
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
