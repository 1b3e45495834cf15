// SPDX-License-Identifier: GPL-2.0
//! The nodes: one character device region with the control node and a node a device.

use core::{
    ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void},
    mem::MaybeUninit,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed},
};

use cohmem_kcore::{Errno, OpenNode};
use cohmem_ksys::{KernelStatic, check, check_pointer, memory::KernelBox};
use cohmem_uapi::MAX_DEVICES;

use super::{entry, sysfs};
use crate::commands::{self, Node};

const NAME: *const c_char = c"cohmem".as_ptr();
/// The control node has minor 0, device N has minor N + 1.
const NR_MINORS: c_uint = MAX_DEVICES + 1;
/// Nodes are for root and the group that udev gives them to.
const NODE_MODE: u16 = 0o660;

static OPERATIONS: KernelStatic<bindings::file_operations> =
    KernelStatic::new(bindings::file_operations {
        owner: &raw mut bindings::__this_module,
        open: Some(open),
        release: Some(release),
        unlocked_ioctl: Some(ioctl),
        compat_ioctl: Some(bindings::compat_ptr_ioctl),
        llseek: Some(bindings::noop_llseek),
        // SAFETY: null pointers and zero flags: operations that are not offered.
        ..unsafe { MaybeUninit::zeroed().assume_init() }
    });

static CDEV: KernelStatic<MaybeUninit<bindings::cdev>> = KernelStatic::new(MaybeUninit::zeroed());

/// First device number of the region, and the class, while a [`Nodes`] lives.
static REGION: AtomicU32 = AtomicU32::new(0);
static CLASS: AtomicPtr<bindings::class> = AtomicPtr::new(ptr::null_mut());

/// A region of device numbers.
///
/// # Invariants
///
/// [`REGION`] is reserved for [`NR_MINORS`].
struct Region(());

impl Region {
    fn reserve() -> Result<Self, Errno> {
        let mut first = 0;
        // SAFETY: `first` outlives the call, and the name is a static.
        check(unsafe { bindings::alloc_chrdev_region(&raw mut first, 0, NR_MINORS, NAME) })?;
        // Ordering: the nodes are made, and so used, after this by the same thread.
        REGION.store(first, Relaxed);
        // INVARIANT: reserved just now.
        Ok(Self(()))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: reserved by the type invariants.
        unsafe { bindings::unregister_chrdev_region(REGION.load(Relaxed), NR_MINORS) };
    }
}

/// The device class.
///
/// # Invariants
///
/// [`CLASS`] is registered, and no device of it is left when the value is dropped.
struct Class(());

impl Class {
    fn register() -> Result<Self, Errno> {
        sysfs::init();
        // SAFETY: the name is a static; the class belongs to this module.
        let class = check_pointer(unsafe { bindings::class_create(NAME) })?;
        // SAFETY: the class is ours, and has no device yet that would read the field.
        unsafe { (*class).devnode = Some(devnode) };
        CLASS.store(class, Relaxed);
        // INVARIANT: registered just now.
        Ok(Self(()))
    }
}

impl Drop for Class {
    fn drop(&mut self) {
        // SAFETY: registered, and without devices, by the type invariants.
        unsafe { bindings::class_destroy(CLASS.load(Relaxed)) };
    }
}

/// The region is open to callers.
///
/// # Invariants
///
/// [`CDEV`] is added.
struct Opened(());

impl Opened {
    fn add() -> Result<Self, Errno> {
        let cdev = CDEV.get().cast();
        // SAFETY: the cdev is a static that is not in use; the operations are a static.
        unsafe { bindings::cdev_init(cdev, OPERATIONS.get()) };
        // SAFETY: initialised just now; the region is ours.
        check(unsafe { bindings::cdev_add(cdev, REGION.load(Relaxed), NR_MINORS) })?;
        // INVARIANT: added just now.
        Ok(Self(()))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: added by the type invariants. Files that are open hold the module, so none is.
        unsafe { bindings::cdev_del(CDEV.get().cast()) };
    }
}

/// A node of the class.
///
/// # Invariants
///
/// The node with this minor exists.
struct ControlNode(());

impl ControlNode {
    fn create() -> Result<Self, Errno> {
        // SAFETY: the format takes no argument.
        let device = unsafe {
            bindings::device_create_with_groups(
                CLASS.load(Relaxed),
                ptr::null_mut(),
                number(0),
                ptr::null_mut(),
                ptr::null_mut(),
                NAME,
            )
        };
        // INVARIANT: created just now.
        check_pointer(device).map(|_device| Self(()))
    }
}

impl Drop for ControlNode {
    fn drop(&mut self) {
        // SAFETY: created by the type invariants.
        unsafe { bindings::device_destroy(CLASS.load(Relaxed), number(0)) };
    }
}

/// What has to be there before a driver can publish a device.
pub(crate) struct Registration {
    // Dropped in this order.
    _class: Class,
    _region: Region,
}

impl Registration {
    /// Reserves the device numbers and makes the class. May sleep.
    pub(crate) fn new() -> Result<Self, Errno> {
        let region = Region::reserve()?;
        Ok(Self {
            _class: Class::register()?,
            _region: region,
        })
    }
}

/// The way in: from here the driver is called.
pub(crate) struct Nodes {
    // Dropped in this order.
    _control: ControlNode,
    _opened: Opened,
}

impl Nodes {
    /// Opens the region and makes the control node. May sleep.
    pub(crate) fn new(_registration: &Registration) -> Result<Self, Errno> {
        let control = ControlNode::create()?;
        // Last, and nothing may fail after it: from here on files can be open.
        Ok(Self {
            _control: control,
            _opened: Opened::add()?,
        })
    }
}

fn number(minor: u32) -> bindings::dev_t {
    // SAFETY: pure arithmetic.
    unsafe { bindings::cohmem_device_number(REGION.load(Relaxed), minor) }
}

/// Creates a device's node and its attributes. May sleep.
pub(crate) fn publish(device: u32) -> Result<(), Errno> {
    // SAFETY: the class lives while a driver does; the groups are a static; the format takes one number.
    let created = unsafe {
        bindings::device_create_with_groups(
            CLASS.load(Relaxed),
            ptr::null_mut(),
            number(device.saturating_add(1)),
            ptr::null_mut(),
            sysfs::groups(),
            c"cohmem%u".as_ptr(),
            device,
        )
    };
    check_pointer(created).map(drop)
}

/// Removes a device's node; waits for readers of its attributes.
pub(crate) fn unpublish(device: u32) {
    // SAFETY: the class lives while a driver does; a number without a node is ignored.
    unsafe { bindings::device_destroy(CLASS.load(Relaxed), number(device.saturating_add(1))) };
}

/// Tells devtmpfs the mode of a node.
extern "C" fn devnode(
    _device: *const bindings::device,
    mode: *mut bindings::umode_t,
) -> *mut c_char {
    if !mode.is_null() {
        // SAFETY: not null, so the kernel passed the place for the mode.
        unsafe { mode.write(NODE_MODE) };
    }
    ptr::null_mut()
}

extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: the kernel passes the inode that is being opened.
    let minor = unsafe { bindings::cohmem_minor(inode) };
    let node = match minor.checked_sub(1) {
        None => ptr::null_mut(),
        Some(device) => {
            let opened =
                entry::with_driver(|driver| driver.open(device)).unwrap_or(Err(Errno::ENODEV));
            match opened.map(OpenNode::new).and_then(KernelBox::new) {
                Ok(node) => node.into_raw().as_ptr(),
                Err(errno) => return errno.to_result(),
            }
        }
    };
    // SAFETY: the file is being opened: nobody else uses it yet.
    unsafe { (*file).private_data = node.cast() };
    0
}

extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    if let Some(node) = opened_as(file) {
        // SAFETY: `open` gave the box away to this file, whose last user is gone.
        let node = unsafe { KernelBox::from_raw(node) };
        // Without a driver there is nothing that would have to be told.
        let _told = entry::with_driver(|driver| driver.close(&node));
    }
    0
}

extern "C" fn ioctl(file: *mut bindings::file, command: c_uint, arg: c_ulong) -> c_long {
    let node = match opened_as(file) {
        None => Node::Control,
        // SAFETY: the box lives until the file is released, which waits for this call, and is only shared.
        Some(node) => Node::Device(unsafe { node.as_ref() }),
    };
    let result = entry::with_driver(|driver| commands::run(driver, node, command, arg));
    match result.unwrap_or(Err(Errno::ENODEV)) {
        Ok(()) => 0,
        Err(errno) => c_long::from(errno.to_result()),
    }
}

/// What `open` noted; `None` for the control node.
fn opened_as(file: *mut bindings::file) -> Option<NonNull<OpenNode>> {
    // SAFETY: the kernel passes a file that `open` opened, and the field does not change after.
    let data: *mut c_void = unsafe { (*file).private_data };
    NonNull::new(data.cast())
}
