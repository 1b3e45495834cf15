// SPDX-License-Identifier: GPL-2.0
//! The kernel as the driver's logic sees it.

mod chunk;
mod space;

use core::{fmt::Debug, ops::Range};

use cohmem_kcore::{
    Errno,
    host::{ChunkSpec, Host, PageFacts, Pfn, Privilege},
    ledger::Ledger,
};
use cohmem_ksys::{
    arrays::Arrays,
    batch::Batch,
    group::Group,
    memory::{Buffer, Shared, Words},
    page::Page,
    process::{self, Mm},
    range::{self, Claim},
    stock::{self, Stock},
    sync::{self, RwLock},
};
use cohmem_uapi::args;

use self::chunk::Chunk;
use crate::sys::{chardev, trace};

/// Bytes of a chunk: bounds how long its struct pages take to set up, and how much one that held mapped
/// poison takes with it.
const CHUNK_BYTES: u64 = 1 << 30;

/// This kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

impl Host for Kernel {
    type Lock<T: Debug + Send + Sync> = RwLock<T>;
    type Buffer<T: Copy + Debug + Send + Sync> = Buffer<T>;
    type Words = Words;
    type Shared<T: Debug + Send + Sync + 'static> = Shared<T>;
    type Claim = Claim;
    type Chunk = Chunk;
    type Space = Mm;
    type Arrays = Arrays;
    type Stock = Stock;
    type Batch<'b> = Batch<'b>;
    type Group = Group;

    fn new_lock<T: Debug + Send + Sync>(&self, value: T) -> Result<RwLock<T>, Errno> {
        RwLock::new(value)
    }

    fn new_buffer<T: Copy + Debug + Send + Sync>(
        &self,
        len: usize,
        fill: T,
    ) -> Result<Buffer<T>, Errno> {
        #[cfg(hooks)]
        crate::hooks::allocating()?;
        Buffer::new(len, fill)
    }

    fn new_words(&self, len: usize) -> Result<Words, Errno> {
        #[cfg(hooks)]
        crate::hooks::allocating()?;
        Words::zeroed(len)
    }

    fn share<T: Debug + Send + Sync + 'static>(&self, value: T) -> Result<Shared<T>, Errno> {
        #[cfg(hooks)]
        crate::hooks::allocating()?;
        Shared::new(value)
    }

    fn new_arrays(&self) -> Result<Arrays, Errno> {
        #[cfg(hooks)]
        crate::hooks::allocating()?;
        Arrays::new()
    }

    fn new_stock(&self) -> Result<Stock, Errno> {
        #[cfg(hooks)]
        crate::hooks::allocating()?;
        Stock::new()
    }

    fn refill(&self, stock: &mut Stock, nr_pages: usize) -> usize {
        #[cfg(hooks)]
        if crate::hooks::refilling().is_err() {
            return stock.refill(0);
        }
        stock.refill(nr_pages)
    }

    fn available_pages(&self) -> u64 {
        stock::available_pages()
    }

    fn free_swap_pages(&self) -> u64 {
        stock::free_swap_pages()
    }

    fn total_pages(&self) -> u64 {
        stock::total_pages()
    }

    fn user_end(&self) -> u64 {
        process::user_end()
    }

    fn phys_end(&self) -> u64 {
        range::phys_end()
    }

    fn moves_partly_mapped_folios(&self) -> bool {
        stock::moves_partly_mapped_folios()
    }

    fn is_privileged(&self, privilege: Privilege) -> bool {
        process::is_privileged(privilege)
    }

    fn user(&self) -> u32 {
        process::real_user()
    }

    fn calling_process(&self) -> u32 {
        process::calling_process()
    }

    fn control_group(&self) -> Group {
        Group::of_caller()
    }

    fn own_space(&self) -> Result<Mm, Errno> {
        Mm::of_caller()
    }

    fn proc_space(&self, fd: i32) -> Result<Mm, Errno> {
        Mm::of_proc_file(fd)
    }

    fn write_user(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        process::write_user(address, bytes)
    }

    fn system_page(&self, pfn: Pfn) -> Option<PageFacts> {
        Page::online(pfn).map(Page::facts)
    }

    fn claim(&self, phys: u64, bytes: u64) -> Result<Claim, Errno> {
        Claim::new(phys, bytes)
    }

    fn soft_reserved_from(&self, phys: u64) -> Option<Range<u64>> {
        range::soft_reserved_from(phys)
    }

    fn claim_in(&self, range: Range<u64>) -> Option<Range<u64>> {
        range::claim_in(range)
    }

    fn holds_ram(&self, range: Range<u64>) -> bool {
        range::holds_ram(range)
    }

    fn register(
        &self,
        spec: ChunkSpec,
        claim: Claim,
        ledger: Shared<Ledger<Self>>,
    ) -> Result<Chunk, Errno> {
        #[cfg(hooks)]
        crate::hooks::registering()?;
        chunk::register(spec, claim, ledger)
    }

    fn chunk_bytes(&self) -> u64 {
        CHUNK_BYTES
    }

    fn node_of(&self, phys: u64) -> u32 {
        u32::try_from(range::node_of(phys)).unwrap_or(0)
    }

    fn publish(&self, device: u32) -> Result<(), Errno> {
        #[cfg(hooks)]
        crate::hooks::publishing()?;
        chardev::publish(device)
    }

    fn unpublish(&self, device: u32) {
        chardev::unpublish(device);
    }

    fn is_killed(&self) -> bool {
        process::is_killed()
    }

    fn is_signalled(&self) -> bool {
        process::is_signalled()
    }

    fn relax(&self) {
        sync::relax();
    }

    fn sleep_ms(&self, milliseconds: u64) {
        sync::sleep_ms(milliseconds);
    }

    fn now_ms(&self) -> u64 {
        sync::now_ms()
    }

    fn now_ns(&self) -> u64 {
        sync::now_ns()
    }

    fn trace(&self, device: u32, told: &args::Move) {
        trace::trace(device, told);
    }

    #[cfg(hooks)]
    fn reached(&self, point: cohmem_kcore::host::Point) {
        crate::hooks::reached(point);
    }

    fn drain_processors(&self) {
        sync::drain_processors();
    }
}
