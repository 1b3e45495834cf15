// SPDX-License-Identifier: GPL-2.0
//! Files that a driver offers: device nodes and files in debugfs.
//!
//! [`OpenFile`] is what an open file does; [`DeviceNode`] and [`DebugFile`] are where it is opened. The
//! module cannot be unloaded while a file is open.

use core::{
    ffi::{CStr, c_int, c_long, c_uint, c_ulong, c_void},
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull,
};

use cohmem_kcore::{Errno, host::Span};

use crate::{
    KernelStatic, check, check_pointer, debug_by_name, memory::KernelBox, page::PAGE_BYTES, process,
};

/// An open file of a driver.
///
/// Threads may share a file, and processes too after a fork: calls come at the same time. Dropping it
/// is its release: the last user is gone.
pub trait OpenFile: Send + Sync + Sized + 'static {
    /// What all files opened at one node have in common.
    type Node: Send + Sync + 'static;

    /// Opens a file.
    ///
    /// **Context:** the opening process; may sleep.
    ///
    /// # Errors
    ///
    /// Whatever `open(2)` is to say.
    fn open(node: &Self::Node) -> Result<Self, Errno>;

    /// Runs a command.
    ///
    /// **Context:** the calling process; may sleep, with no lock held. `arg` is whatever the caller
    /// passed.
    ///
    /// # Errors
    ///
    /// Whatever `ioctl(2)` is to say.
    fn command(&self, command: u32, arg: u64) -> Result<(), Errno>;

    /// Maps the file into the calling process.
    ///
    /// **Context:** the process's address space is locked for writing; may sleep.
    ///
    /// # Errors
    ///
    /// Whatever `mmap(2)` is to say; the area is not mapped then. `ENODEV` unless implemented.
    fn map(&self, _area: &mut NewArea<'_>) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }
}

/// An area that is being mapped.
///
/// # Invariants
///
/// The area is new: only the thread that maps it knows it, and holds its address space's lock.
#[derive(Debug)]
pub struct NewArea<'a> {
    area: NonNull<bindings::vm_area_struct>,
    call: PhantomData<&'a mut ()>,
}

impl NewArea<'_> {
    /// Its addresses.
    #[must_use]
    pub fn span(&self) -> Span {
        // SAFETY: the area lives by the type invariants.
        let start = unsafe { bindings::cohmem_vma_start(self.area.as_ptr()) };
        // SAFETY: as above.
        let end = unsafe { bindings::cohmem_vma_end(self.area.as_ptr()) };
        Span { start, end }
    }

    /// Maps a page of zeros at each of its addresses.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR` on a fatal signal; `EBUSY`: there is a page already. Those before are mapped.
    pub fn insert_zeroed_pages(&mut self) -> Result<(), Errno> {
        let span = self.span();
        for address in (span.start..span.end).step_by(PAGE_BYTES as usize) {
            if process::is_killed() {
                return Err(Errno::EINTR);
            }
            // SAFETY: the caller may sleep.
            let page = unsafe { bindings::cohmem_alloc_zeroed_page() };
            if page.is_null() {
                return Err(Errno::ENOMEM);
            }
            // SAFETY: the area is new and locked by the type invariants; the page is ours, and no part of
            // a larger one.
            let result = unsafe { bindings::vm_insert_page(self.area.as_ptr(), address, page) };
            // SAFETY: the reference is ours; the mapping has one of its own.
            unsafe { bindings::cohmem_put_page(page) };
            check(result)?;
        }
        Ok(())
    }
}

/// The kernel's tables of functions for files of type `F`.
struct Operations<F>(PhantomData<F>);

impl<F: OpenFile> Operations<F> {
    const NODE: &'static bindings::file_operations = &Self::with(open_node::<F>);
    const DEBUG: &'static bindings::file_operations = &Self::with(open_debug::<F>);

    const fn with(
        open: unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int,
    ) -> bindings::file_operations {
        bindings::file_operations {
            owner: &raw mut bindings::__this_module,
            open: Some(open),
            release: Some(release::<F>),
            unlocked_ioctl: Some(ioctl::<F>),
            compat_ioctl: Some(bindings::compat_ptr_ioctl),
            mmap: Some(mmap::<F>),
            llseek: Some(bindings::noop_llseek),
            // SAFETY: null pointers and zero flags: operations that are not offered.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        }
    }
}

/// The kernel's object of a node, and what its files have in common.
#[repr(C)]
struct Registered<N> {
    misc: KernelStatic<bindings::miscdevice>,
    node: N,
}

/// A node `/dev/NAME`.
///
/// # Invariants
///
/// The device of `registered` is registered, with the operations for `F`.
pub struct DeviceNode<F: OpenFile> {
    registered: KernelBox<Registered<F::Node>>,
}

// SAFETY: a node is not bound to a thread: its name and operations are statics; what its files share may be
// sent.
unsafe impl<F: OpenFile> Send for DeviceNode<F> {}
// SAFETY: as above; the kernel synchronises the access to its object.
unsafe impl<F: OpenFile> Sync for DeviceNode<F> {}

impl<F: OpenFile> DeviceNode<F> {
    /// Creates the node, for root alone. Files can be opened from here on, before this function returns:
    /// `node` is complete.
    ///
    /// **Context:** may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY`: no number is left; what the device core says.
    pub fn new(name: &'static CStr, node: F::Node) -> Result<Self, Errno> {
        let misc = bindings::miscdevice {
            minor: bindings::MISC_DYNAMIC_MINOR as c_int,
            name: name.as_ptr(),
            fops: Operations::<F>::NODE,
            mode: 0o600,
            // SAFETY: null pointers and empty lists.
            ..unsafe { MaybeUninit::zeroed().assume_init() }
        };
        let registered = KernelBox::new(Registered {
            misc: KernelStatic::new(misc),
            node,
        })?;
        // SAFETY: the object stays at its address until it is deregistered; its name is a static.
        check(unsafe { bindings::misc_register(registered.misc.get()) })?;
        // INVARIANT: registered just now.
        Ok(Self { registered })
    }

    /// What its files have in common.
    #[must_use]
    pub fn node(&self) -> &F::Node {
        &self.registered.node
    }
}

impl<F: OpenFile> Drop for DeviceNode<F> {
    fn drop(&mut self) {
        // SAFETY: registered by the type invariants. It waits until no open call uses the object; files
        // that are open do not.
        unsafe { bindings::misc_deregister(self.registered.misc.get()) };
    }
}

/// A file in the root of debugfs.
///
/// # Invariants
///
/// `entry` is a file with the operations for `F`, and with `node` as its data.
pub struct DebugFile<F: OpenFile> {
    entry: *mut bindings::dentry,
    _node: KernelBox<F::Node>,
}

// SAFETY: a file of debugfs is not bound to a thread, and the node may be sent.
unsafe impl<F: OpenFile> Send for DebugFile<F> {}
// SAFETY: as above; a shared value gives access to nothing.
unsafe impl<F: OpenFile> Sync for DebugFile<F> {}

impl<F: OpenFile> DebugFile<F> {
    /// Creates the file, for root alone.
    ///
    /// **Context:** may sleep.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the kernel has a file of that name; `ENODEV`: it has no debugfs; `ENOMEM`.
    pub fn new(name: &'static CStr, node: F::Node) -> Result<Self, Errno> {
        let node = KernelBox::new(node)?;
        // SAFETY: the name and the operations are statics; the data stays until the file is removed.
        let entry = check_pointer(unsafe {
            bindings::cohmem_debugfs_create_file(
                name.as_ptr(),
                0o600,
                node.as_ptr().as_ptr().cast(),
                Operations::<F>::DEBUG,
            )
        })?;
        // INVARIANT: created just now.
        Ok(Self { entry, _node: node })
    }
}

impl<F: OpenFile> Drop for DebugFile<F> {
    fn drop(&mut self) {
        // SAFETY: created by the type invariants, and removed once. It waits for calls that run.
        unsafe { bindings::debugfs_remove(self.entry) };
    }
}

extern "C" fn open_node<F: OpenFile>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: the kernel passes a file of a misc device that is being opened, with that device in its
    // private data.
    let misc = unsafe { (*file).private_data };
    // SAFETY: the device is the first member of a node's, which stays while a file is being opened.
    let registered = unsafe { &*misc.cast_const().cast::<Registered<F::Node>>() };
    open_file::<F>(&registered.node, file)
}

extern "C" fn open_debug<F: OpenFile>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: the kernel passes the inode of a file of ours.
    let data = unsafe { bindings::cohmem_inode_private(inode) };
    // SAFETY: the data is a node, which stays while a file is being opened.
    let node = unsafe { &*data.cast_const().cast::<F::Node>() };
    open_file::<F>(node, file)
}

fn open_file<F: OpenFile>(node: &F::Node, file: *mut bindings::file) -> c_int {
    match F::open(node).and_then(KernelBox::new) {
        Ok(opened) => {
            let opened: *mut c_void = opened.into_raw().as_ptr().cast();
            // SAFETY: the file is being opened: nobody else uses it yet.
            unsafe { (*file).private_data = opened };
            0
        }
        Err(errno) => errno.to_result(),
    }
}

extern "C" fn release<F: OpenFile>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: the kernel passes a file that was opened.
    let opened = unsafe { (*file).private_data };
    if let Some(opened) = NonNull::new(opened.cast::<F>()) {
        // SAFETY: `open_file` gave the box away to this file, whose last user is gone.
        drop(unsafe { KernelBox::from_raw(opened) });
    }
    0
}

/// The file that `open_file` made.
///
/// # Safety
///
/// `file` was opened at a node for files of type `F`, and is not released during `'a`.
unsafe fn opened<'a, F: OpenFile>(file: *mut bindings::file) -> &'a F {
    // SAFETY: by the caller's promise; the field does not change after the file was opened.
    let opened = unsafe { (*file).private_data };
    // SAFETY: `open_file` stored a box that lives until the file is released.
    unsafe { &*opened.cast_const().cast::<F>() }
}

extern "C" fn ioctl<F: OpenFile>(
    file: *mut bindings::file,
    command: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: the kernel passes a file with these operations, and releases it after this call.
    let opened = unsafe { opened::<F>(file) };
    match opened.command(command, arg) {
        Ok(()) => 0,
        Err(errno) => c_long::from(errno.to_result()),
    }
}

extern "C" fn mmap<F: OpenFile>(
    file: *mut bindings::file,
    area: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: as in `ioctl`.
    let opened = unsafe { opened::<F>(file) };
    let Some(area) = NonNull::new(area) else {
        return Errno::EINVAL.to_result();
    };
    // INVARIANT: the kernel passes an area that is being mapped, with the lock held.
    let mut area = NewArea {
        area,
        call: PhantomData,
    };
    match opened.map(&mut area) {
        Ok(()) => 0,
        Err(errno) => errno.to_result(),
    }
}

debug_by_name! {
    [F: OpenFile] DeviceNode<F>, "DeviceNode";
    [F: OpenFile] DebugFile<F>, "DebugFile";
}
