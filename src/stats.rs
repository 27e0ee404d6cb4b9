//! Counters of a context, and how others read them while they are counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What was counted so far.
        #[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
        pub(crate) struct Counters { $($(#[$doc])* pub $name: u64),* }

        /// The same, where other threads can read it.
        #[derive(Default)]
        pub(crate) struct Published { $($name: AtomicU64),* }

        impl Published {
            /// By the only thread that counts.
            pub(crate) fn set(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Relaxed);)*
            }

            /// By the only thread that counts: who asks while it sleeps is told of them.
            pub(crate) fn set_operations(&self, operations: u64) {
                self.operations.store(operations, Relaxed);
            }

            /// By any of several threads that count.
            pub(crate) fn add(&self, counters: &Counters) {
                // Most are 0, and each addition is a locked instruction.
                $(if counters.$name > 0 {
                    self.$name.fetch_add(counters.$name, Relaxed);
                })*
            }

            pub(crate) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed)),* }
            }
        }

        impl std::ops::Add for Counters {
            type Output = Counters;
            fn add(self, other: Counters) -> Counters {
                Counters { $($name: self.$name + other.$name),* }
            }
        }
    };
}

counters! {
    /// Events whose result is an errno.
    failed,
    bytes_read,
    bytes_written,
    /// Operations handed to the kernel.
    operations,
    /// System calls made for them.
    system_calls,
    /// Events that travelled in another's operation.
    merged,
    /// Operations issued for the rest of a short one.
    continued,
    /// Syncs answered by another's operation.
    syncs_joined,
}
