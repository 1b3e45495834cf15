//! Levels 2 and 3: writes wait while the content is copied, reads go on.

use cohmem_uapi::Reason;

use super::reason_of;
use crate::{
    host::{Slot, Span, StopHost},
    word::Place,
};

/// Moves a span from system memory to the pool.
pub(crate) fn to_device<H: StopHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    host.populate(span).map_err(reason_of)?;
    host.stop(span, Place::System).map_err(reason_of)?;
    host.copy_out(span, slot);
    if let Err(error) = host.map_device(span, slot) {
        if host.is_mapped(span) {
            host.release(span, Place::System);
            return Err(reason_of(error));
        }
        // The old pages went with their mapping; the copy is complete.
        if host.map_device(span, slot).is_err() {
            host.give_up();
        }
    }
    host.resume(span);
    Ok(())
}

/// Moves a span home.
pub(crate) fn to_system<H: StopHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    host.prepare(span).map_err(reason_of)?;
    if let Err(error) = host.stop(span, Place::Device) {
        host.discard(span);
        return Err(reason_of(error));
    }
    host.restore(span, slot);
    if let Err(error) = host.switch_home(span) {
        if !host.is_mapped(span) && host.map_device(span, slot).is_err() {
            host.give_up();
        }
        host.release(span, Place::Device);
        host.discard(span);
        return Err(reason_of(error));
    }
    host.resume(span);
    Ok(())
}
