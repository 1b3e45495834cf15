//! Level 1: pages leave the region as a whole, and whoever touches the hole waits.

use cohmem_uapi::Reason;
use rustix::io::Errno;

use super::reason_of;
use crate::host::{HoleHost, Slot, Span};

/// Times that a call which lost a race is repeated before the span goes back to where it was.
#[cfg(not(test))]
const NR_TRIES: u32 = 100_000;
#[cfg(test)]
const NR_TRIES: u32 = 4;

/// Moves a span from system memory to the pool, where the CPU uses it in place.
pub(crate) fn to_device<H: HoleHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    take_out(host, span)?;
    host.save(span, slot);
    if let Err(error) = host.map_device(span, slot) {
        if !host.is_mapped(span) && host.open_hole(span).is_err() {
            host.give_up();
        }
        abandon(host, span, span.length);
        return Err(reason_of(error));
    }
    // Whoever saw the hole is queued by now: it queues itself under the lock of the address space that
    // replacing the hole takes exclusively.
    host.wake(span);
    Ok(())
}

/// Moves a span from system memory to the pool, and leaves a hole: a touch brings it home.
pub(crate) fn to_private<H: HoleHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    take_out(host, span)?;
    host.save(span, slot);
    // They look again, find the hole still there, and so ask for its way home.
    host.wake(span);
    Ok(())
}

/// Moves a span home whose pool memory the CPU uses in place.
pub(crate) fn to_system<H: HoleHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    if let Err(error) = host.open_hole(span) {
        if !host.is_mapped(span) && host.map_device(span, slot).is_err() {
            host.give_up();
        }
        host.wake(span);
        return Err(reason_of(error));
    }
    if let Err(error) = fill(host, span, slot) {
        if host.map_device(span, slot).is_err() {
            host.give_up();
        }
        host.wake(span);
        return Err(reason_of(error));
    }
    close_hole(host, span);
    Ok(())
}

/// Moves a span home that is a hole.
pub(crate) fn from_private<H: HoleHost>(host: &H, span: Span, slot: Slot) -> Result<(), Reason> {
    if let Err(error) = fill(host, span, slot) {
        host.wake(span);
        return Err(reason_of(error));
    }
    close_hole(host, span);
    Ok(())
}

/// Makes the span a hole, its pages in the staging area; or leaves all as it was.
fn take_out<H: HoleHost>(host: &H, span: Span) -> Result<(), Reason> {
    host.make_room(span);
    host.populate(span).map_err(reason_of)?;
    host.arm(span).map_err(reason_of)?;
    let (done, result) = take_all(host, span);
    result.map_err(|error| {
        abandon(host, span, done);
        reason_of(error)
    })
}

fn take_all<H: HoleHost>(host: &H, span: Span) -> (usize, Result<(), Errno>) {
    let (mut done, mut nr_tries) = (0, 0);
    while done < span.length {
        let rest = span.tail(done);
        let (more, result) = host.take(rest);
        done += more;
        nr_tries = if more > 0 { 0 } else { nr_tries + 1 };
        match result {
            Ok(()) => {}
            Err(Errno::AGAIN) if nr_tries < NR_TRIES => host.pause(),
            // A page that was there a moment ago: somebody gave it back to the system, so it is zero.
            Err(Errno::NOENT) if nr_tries < NR_TRIES => match host.zero_first(span.tail(done)) {
                Ok(()) | Err(Errno::EXIST | Errno::AGAIN) => {}
                Err(error) => return (done, Err(error)),
            },
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Puts the first `taken` bytes back and ends the stop.
fn abandon<H: HoleHost>(host: &H, span: Span, taken: usize) {
    let mut back = 0;
    let mut nr_tries = 0_u32;
    while back < taken {
        let (more, result) = host.put_back(span.head(taken).tail(back));
        back += more;
        nr_tries = if more > 0 { 0 } else { nr_tries + 1 };
        match result {
            Ok(()) => {}
            // The staging area holds the only copy, and no frame or page can be short for long: each
            // is there already.
            Err(_) if nr_tries < NR_TRIES.saturating_mul(100) => host.pause(),
            Err(_) => host.give_up(),
        }
    }
    close_hole(host, span);
}

/// Ends the stop of a span whose pages are all there.
fn close_hole<H: HoleHost>(host: &H, span: Span) {
    // Where it fails for want of a mapping, the span stays armed, which changes nothing for pages that
    // are there.
    match host.disarm(span) {
        Ok(()) | Err(_) => host.wake(span),
    }
}

/// Fills the hole; or leaves it as it was, with the whole content in the pool.
fn fill<H: HoleHost>(host: &H, span: Span, slot: Slot) -> Result<(), Errno> {
    let (mut done, mut nr_tries) = (0, 0);
    while done < span.length {
        let (more, result) = host.fill(span.tail(done), slot + done);
        done += more;
        nr_tries = if more > 0 { 0 } else { nr_tries + 1 };
        match result {
            Ok(()) => {}
            Err(Errno::AGAIN) if nr_tries < NR_TRIES => host.pause(),
            Err(error) => {
                // What is home may have been written since. It goes back the way it came.
                let head = span.head(done);
                if done > 0 {
                    host.make_room(head);
                    if take_all(host, head).1.is_err() {
                        host.give_up();
                    }
                    host.save(head, slot);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}
