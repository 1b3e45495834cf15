// SPDX-License-Identifier: GPL-2.0
//! The arguments of a driver's commands, as its callers pass them.

/// What the members of [`arguments!`](crate::arguments) are: integers and arrays of them, of which any
/// bytes are a value.
///
/// # Safety
///
/// Every bit pattern is a value of the type, and it has no padding.
pub unsafe trait Bits {}

/// Implements [`Bits`].
macro_rules! bits {
    ($($integer:ty),+) => {
        $(
            // SAFETY: an integer.
            unsafe impl Bits for $integer {}
        )+
    };
}
bits!(u8, u16, u32, u64, i8, i16, i32, i64);

// SAFETY: the elements follow each other without a gap.
unsafe impl<T: Bits, const N: usize> Bits for [T; N] {}

/// Declares structures that commands take: the layout is C's, the members are [`Bits`], and a gap between
/// them does not compile, since it would show callers what was in the kernel's memory before.
#[macro_export]
macro_rules! arguments {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$member_attribute:meta])* $member_visibility:vis $member:ident: $type:ty),+ $(,)?
        }
    )+) => {
        $(
            $(#[$attribute])*
            #[derive(Clone, Copy)]
            #[repr(C)]
            $visibility struct $name {
                $($(#[$member_attribute])* $member_visibility $member: $type),+
            }

            const _: () = {
                const fn assert_bits<T: $crate::abi::Bits>() {}
                $(assert_bits::<$type>();)+
                assert!(
                    size_of::<$name>() == 0 $(+ size_of::<$type>())+,
                    "there is a gap between the members"
                );
            };

            // SAFETY: `repr(C)`; the members are `Bits`, and there is no gap, as is asserted above.
            unsafe impl $crate::process::Plain for $name {}
        )+
    };
}

/// The number of a command that reads and writes an argument of type `T`: `_IOWR(kind, number, T)`.
#[must_use]
pub const fn command_number<T>(kind: u8, number: u8) -> u32 {
    const {
        assert!(
            size_of::<T>() < 1 << 14,
            "a command's number has 14 bits for the size of its argument"
        );
    }
    (3 << 30) | ((size_of::<T>() as u32) << 16) | ((kind as u32) << 8) | number as u32
}
