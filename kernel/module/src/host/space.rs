// SPDX-License-Identifier: GPL-2.0
//! Address spaces and batches: the traits of the driver's logic over the kernel's objects.

use cohmem_frames::FrameIndex;
use cohmem_kcore::{
    Errno, ProcessId,
    host::{self, Mapping, Source, Span, Unreadable, Vma},
};
use cohmem_ksys::{
    arrays::Arrays,
    batch::{self, Batch},
    process::Mm,
    stock::Stock,
    vma::LockedMm,
};

use super::{Kernel, chunk::Chunk};

impl host::AddressSpace<Kernel> for Mm {
    type Locked<'a> = LockedMm<'a>;

    fn lock(&self) -> Result<LockedMm<'_>, Errno> {
        Self::lock(self)
    }

    fn process(&self) -> ProcessId {
        Self::process(self)
    }

    fn has_swapped_pages(&self) -> bool {
        Self::has_swapped_pages(self)
    }
}

impl host::LockedSpace<Kernel> for LockedMm<'_> {
    fn vma_from(&self, address: u64) -> Option<Vma> {
        Self::vma_from(self, address)
    }

    fn snapshot(&mut self, span: Span, out: &mut [Mapping]) -> Result<(), Errno> {
        Self::snapshot(self, span, out)
    }

    fn collect<'b>(
        &'b mut self,
        span: Span,
        select: host::Select<'b, Kernel>,
        arrays: &'b mut Arrays,
    ) -> Result<Batch<'b>, Errno> {
        let select = match select {
            host::Select::System => batch::Select::System,
            host::Select::Device(chunk) => batch::Select::Device(chunk.owner()),
        };
        Self::collect(self, span, select, arrays)
    }
}

impl host::Batch<Kernel> for Batch<'_> {
    fn source(&self, index: usize) -> Source {
        Self::source(self, index)
    }

    fn assign_frame(&mut self, index: usize, chunk: &Chunk, frame: FrameIndex) {
        Self::assign_frame(self, index, chunk, frame);
    }

    fn assign_system(&mut self, index: usize, stock: &mut Stock) -> bool {
        Self::assign_system(self, index, stock)
    }

    fn copy(&mut self, index: usize) -> Result<(), Unreadable> {
        #[cfg(hooks)]
        crate::hooks::copying()?;
        Self::copy(self, index)?;
        #[cfg(hooks)]
        if let Some(source) = self.source_page(index) {
            crate::hooks::copied(source);
        }
        Ok(())
    }

    fn zero(&mut self, index: usize) {
        Self::zero(self, index);
    }

    fn unassign(&mut self, index: usize) {
        Self::unassign(self, index);
    }

    fn commit(&mut self) {
        Self::commit(self);
    }

    fn is_moved(&self, index: usize) -> bool {
        Self::is_moved(self, index)
    }
}
