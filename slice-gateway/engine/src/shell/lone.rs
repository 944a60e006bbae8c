//! Whether one flow has the engine to itself.
//!
//! The thread of the socket interrupts whoever runs, for every few messages, so that none waits
//! behind another flow's. A flow that is alone can wait only for itself, and gets more done when
//! its packets and acknowledgements gather while the others work.

use std::sync::atomic::{AtomicU32, Ordering};

/// So many packets or super-packets of one flow in a row are no accident.
const CERTAIN: u32 = 256;

/// The flow of the last packets of one direction (8 bits), and how many they are. Threads that
/// write it at the same time may forget some; they have different flows.
#[derive(Debug, Default)]
pub(super) struct Lone(AtomicU32);

impl Lone {
    /// Takes note of a packet's flow.
    pub(super) fn observe(&self, flow: u8) {
        let last = self.0.load(Ordering::Relaxed);
        let before = if last as u8 == flow { last >> 8 } else { 0 };
        let packets = (before + 1).min(CERTAIN);
        self.0.store(packets << 8 | u32::from(flow), Ordering::Relaxed);
    }

    /// True if no other flow has been seen for a while.
    pub(super) fn is_certain(&self) -> bool {
        self.0.load(Ordering::Relaxed) >> 8 >= CERTAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_other_flow_ends_it() {
        let lone = Lone::default();
        (1..CERTAIN).for_each(|_| lone.observe(7));
        assert!(!lone.is_certain());
        lone.observe(7);
        assert!(lone.is_certain());
        lone.observe(7);
        assert!(lone.is_certain());
        lone.observe(8);
        assert!(!lone.is_certain());
        (1..CERTAIN).for_each(|_| lone.observe(8));
        assert!(lone.is_certain());
    }
}
