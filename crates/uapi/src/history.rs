//! What a device's history tells of a run of pages.

macro_rules! told {
    (
        $(#[doc = $type_doc:literal])+ $type:ident:
        $($(#[doc = $doc:literal])+ $name:ident = $value:literal, $slug:literal, $text:literal;)+
    ) => {
        $(#[doc = $type_doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $type { $($(#[doc = $doc])+ $name = $value,)+ }

        impl $type {
            /// Every value, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The one with this ABI value; `None` for values of a newer driver.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw { $($value => Some(Self::$name),)+ _ => None }
            }

            /// Short name for tables and machine output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $slug,)+ }
            }

            /// A few words that a person understands.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

told! {
    /// What became of the pages (`enum cohmem_event`).
    Event:
    /// They moved to the device.
    Arrived = 1, "arrived", "moved to the device";
    /// Holes were filled with zeroed frames of the device.
    Filled = 2, "filled", "filled with zeros on the device";
    /// They moved away from the device.
    Left = 3, "left", "moved away from the device";
    /// The hardware lost their content.
    Lost = 4, "lost", "lost by the hardware";
    /// They were to come to the device, and did not.
    Stayed = 5, "stayed", "did not come to the device";
    /// They were to leave the device, and did not.
    Stuck = 6, "stuck", "did not leave the device";
}

told! {
    /// What for (`enum cohmem_cause`).
    Cause:
    /// A migration.
    Migrate = 1, "migrate", "a migration";
    /// The device was emptied.
    Evict = 2, "evict", "an eviction";
    /// The device was taken back.
    Detach = 3, "detach", "a detach";
    /// The machine was to hibernate.
    Hibernate = 4, "hibernate", "hibernation";
    /// The hardware reported an error.
    Failure = 5, "failure", "a hardware error";
}
