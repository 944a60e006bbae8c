//! How fronts choose among their slots: a chain for each way there is.
//!
//! With affinity a client is led to the endpoint it had, which is kept in a map whose elements end by
//! themselves; and only otherwise by chance. Where the map is full, its address decides.

use std::collections::BTreeSet;
use std::net::IpAddr;

use slicewire_core::prefix::Family;
use slicewire_core::service::balance::Balance;
use slicewire_core::service::translate::{Front, TranslationDelta};

use super::exprs::{Memory, choose, choose_by_client};
use super::{CREATE, TABLE, by, chain, kept_of, places_of, rule, slots_of};
use crate::nft::abi::{self, attr, message};
use crate::nft::writer::Writer;

/// Most slots of a front, unless it has more endpoints.
const MAX_SLOTS: u64 = 1024;

/// How a front chooses: by a family's addresses, among so many slots, and whether clients stay with
/// their endpoint until they were silent for so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    family: Family,
    slots: u32,
    sticky: Option<u32>,
}

impl Way {
    pub(super) fn chain(self) -> String {
        let family = by(self.family, "4", "6");
        match self.sticky {
            None => format!("{family}-chance-{}", self.slots),
            Some(seconds) => format!("{family}-client-{seconds}-{}", self.slots),
        }
    }
}

/// None where there is nothing to choose.
pub(super) fn way(front: &Front, balance: &Balance) -> Option<Way> {
    let slots = u32::try_from(slots(balance).len()).unwrap_or(u32::MAX);
    let family = Family::of_addr(&front.address);
    (slots > 0).then_some(Way { family, slots, sticky: balance.sticky })
}

/// The endpoint in each slot. Shares that need very many slots are rounded; nobody gets none.
pub(super) fn slots(balance: &Balance) -> Vec<(IpAddr, u16)> {
    let total = u64::from(balance.total).max(1);
    let count = |share: u32| {
        let share = u64::from(share);
        if total <= MAX_SLOTS { share } else { (share * MAX_SLOTS / total).max(1) }
    };
    let each = balance.targets.iter().map(|t| (t, usize::try_from(count(t.share)).unwrap_or(1)));
    each.flat_map(|(t, n)| std::iter::repeat_n((t.address, t.port), n)).collect()
}

/// The ways that have a chain. A new rule makes the kernel look through all of the table, so a chain
/// is written once.
#[derive(Debug, Default)]
pub(in crate::nft) struct Ways(BTreeSet<Way>);

impl Ways {
    /// Makes the chains that changed fronts lead to, as far as they are not known to be there. One
    /// that is there all the same becomes what it was.
    pub(super) fn complete(&mut self, writer: &mut Writer, delta: &TranslationDelta) {
        let ways = delta.set.iter().filter_map(|(front, b)| way(front, b));
        let new: BTreeSet<Way> = ways.filter(|way| !self.0.contains(way)).collect();
        for way in new {
            write(writer, way);
            self.0.insert(way);
        }
    }
}

fn write(writer: &mut Writer, way: Way) {
    let name = way.chain();
    chain(writer, message::NEW_CHAIN, CREATE, &name, None);
    writer.message(message::DEL_RULE, 0, abi::INET, format!("rules of {name}"), |w| {
        w.text(attr::RULE_TABLE, TABLE);
        w.text(attr::RULE_CHAIN, &name);
    });
    let Way { family, slots: total, sticky } = way;
    let slots = slots_of(family);
    let Some(seconds) = sticky else {
        return rule(writer, &name, |w| choose(w, family, slots, total));
    };
    let (kept, places) = (kept_of(family), places_of(family));
    let memory = Memory { family, kept, places, seconds };
    rule(writer, &name, |w| memory.again(w));
    rule(writer, &name, |w| memory.choose(w, slots, total));
    rule(writer, &name, |w| choose_by_client(w, family, slots, total));
}
