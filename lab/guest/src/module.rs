//! Loading, unloading, hibernation.

use std::{ffi::CStr, fs::File};

use cohmem_uapi::State;

use crate::{
    Test,
    driver::{Device, attach, detach, ranges},
    sys::{
        io::PagePipe,
        memory::Memory,
        process::{delete_module, load_module},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "unloading_is_refused_while_attached",
        unloading_is_refused_while_attached,
    ),
    ("unload_and_load_again", unload_and_load_again),
    (
        "hibernation_takes_pages_home_first",
        hibernation_takes_pages_home_first,
    ),
    (
        "hibernation_is_refused_when_a_page_stays",
        hibernation_is_refused_when_a_page_stays,
    ),
];

const NAME: &CStr = c"cohmem";

fn unloading_is_refused_while_attached() {
    // No file is open, which would hold the module as well.
    let range = ranges()[0].clone();
    let attached = attach(&range, 0).expect("attach");
    let error = delete_module(NAME).expect_err("a device is attached");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    assert_eq!(detach(attached.device, 1000).errno, 0);
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    let error = delete_module(NAME).expect_err("a device is attached");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    memory.expect(|index| index as u64);
    device.give_all(&memory);
}

fn unload_and_load_again() {
    let path = std::env::var("COHMEM_MODULE").expect("the lab tells the module's path");
    for _round in 0..3 {
        delete_module(NAME).expect("no device is attached");
        assert!(!std::path::Path::new("/dev/cohmem").exists());
        load_module(&File::open(&path).expect("the module"), c"").expect("load");
        let device = Device::attach_part(0, 64 << 20);
        let memory = Memory::filled(1 << 20, |index| index as u64);
        device.take_all(&memory);
        device.give_all(&memory);
    }
}

/// Goes as far into hibernation as freezing the processes, and back.
pub(crate) fn hibernate() -> Result<(), std::io::Error> {
    std::fs::write("/sys/power/pm_test", "freezer").expect("pm_test");
    let result = std::fs::write("/sys/power/state", "disk");
    std::fs::write("/sys/power/pm_test", "none").expect("pm_test");
    result
}

fn hibernation_takes_pages_home_first() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    hibernate().expect("hibernation");
    assert_eq!(device.allocated(), 0, "the image holds no device memory");
    memory.expect(|index| index as u64);
    assert_eq!(device.info().state, State::Online as u32);
    device.take_all(&memory);
    memory.expect(|index| index as u64);
    device.give_all(&memory);
}

fn hibernation_is_refused_when_a_page_stays() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    device.take_all(&memory);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 0);
    let error = hibernate().expect_err("a page cannot go home");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    assert_eq!(device.allocated(), 1);
    memory.expect(|index| index as u64);
    device.take_all_again(&memory);
    pipe.release();
}
