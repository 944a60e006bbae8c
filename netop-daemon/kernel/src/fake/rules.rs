//! Packet rules in memory, as strict about what is there as the kernel.

use std::collections::BTreeMap;

use async_trait::async_trait;
use nix::errno::Errno;
use slicewire_core::policy::Delta;
use slicewire_core::policy::ruleset::{Chain, Change, Elements, Ruleset, Set, Table};
use slicewire_core::service::translate::{Translation, TranslationDelta};

use super::FakeNetwork;
use crate::error::Error;
use crate::netns::NsId;
use crate::nft::Count;
use crate::port::PacketRules;

pub(super) struct FakeRules {
    pub(super) id: NsId,
    pub(super) network: FakeNetwork,
}

#[async_trait]
impl PacketRules for FakeRules {
    async fn apply(&self, delta: Delta) -> Result<(), Error> {
        let mut shared = self.network.lock();
        let there = shared.rules.get(&self.id).cloned();
        let mut ruleset = match (delta.anew, there) {
            (true, _) => Ruleset::default(),
            (false, Some(ruleset)) => ruleset,
            (false, None) => {
                return Err(Error::new("change", "packet rules", &self.id, Errno::ENOENT.into()));
            }
        };
        let inet = delta.inet.iter().try_for_each(|c| change(&mut ruleset.inet, c));
        let done =
            inet.and_then(|()| delta.arp.iter().try_for_each(|c| change(&mut ruleset.arp, c)));
        done.map_err(|errno| Error::new("change", "packet rules", &self.id, errno.into()))?;
        shared.rules.insert(self.id.clone(), ruleset);
        Ok(())
    }

    async fn translate(&self, delta: TranslationDelta) -> Result<(), Error> {
        let mut shared = self.network.lock();
        let there = shared.translations.get(&self.id).cloned();
        let mut now = match (delta.anew, there) {
            (true, _) => Translation::default(),
            (false, Some(there)) => there,
            (false, None) => {
                let gone = Errno::ENOENT.into();
                return Err(Error::new("change", "virtual addresses", &self.id, gone));
            }
        };
        now.fronts.retain(|front, _| !delta.were.contains_key(front));
        now.fronts.extend(delta.set);
        now.live.retain(|front| !delta.died.contains(front));
        now.live.extend(delta.born);
        now.own.retain(|address| !delta.left.contains(address));
        now.own.extend(delta.came);
        shared.translations.insert(self.id.clone(), now);
        Ok(())
    }

    async fn counters(&self) -> Result<BTreeMap<String, Count>, Error> {
        let rules = self.network.ruleset(&self.id).unwrap_or_default();
        Ok(rules.inet.counters.into_iter().map(|name| (name, Count::default())).collect())
    }
}

fn change(table: &mut Table, change: &Change) -> Result<(), Errno> {
    let new = |fresh: bool| if fresh { Ok(()) } else { Err(Errno::EEXIST) };
    let was = |there: bool| if there { Ok(()) } else { Err(Errno::ENOENT) };
    match change {
        Change::AddCounter(name) => new(table.counters.insert(name.clone())),
        Change::DeleteCounter(name) => was(table.counters.remove(name)),
        Change::AddSet(name, set) => new(table.sets.insert(name.clone(), set.clone()).is_none()),
        Change::DeleteSet(name) => was(table.sets.remove(name).is_some()),
        Change::AddChain(name, hook) => {
            let chain = Chain { hook: *hook, rules: Vec::new() };
            new(table.chains.insert(name.clone(), chain).is_none())
        }
        Change::DeleteChain(name) => was(table.chains.remove(name).is_some()),
        Change::SetRules(name, rules) => {
            table.chains.get_mut(name).ok_or(Errno::ENOENT)?.rules.clone_from(rules);
            Ok(())
        }
        Change::Clear(name) => {
            let set = table.sets.get_mut(name).ok_or(Errno::ENOENT)?;
            *set = set.emptied();
            Ok(())
        }
        Change::Insert(name, more) => {
            insert(table.sets.get_mut(name).ok_or(Errno::ENOENT)?, more);
            Ok(())
        }
        Change::Remove(name, gone) => remove(table.sets.get_mut(name).ok_or(Errno::ENOENT)?, gone),
    }
}

fn insert(set: &mut Set, more: &Set) {
    match (&mut set.elements, more.elements.clone()) {
        (Elements::Plain(all), Elements::Plain(more)) => all.extend(more),
        (Elements::Marks(all), Elements::Marks(more)) => all.extend(more),
        (Elements::Verdicts(all), Elements::Verdicts(more)) => all.extend(more),
        (Elements::Marks4(all), Elements::Marks4(more)) => all.extend(more),
        (Elements::Marks6(all), Elements::Marks6(more)) => all.extend(more),
        _ => {}
    }
}

fn remove(set: &mut Set, gone: &Set) -> Result<(), Errno> {
    let all = match (&mut set.elements, &gone.elements) {
        (Elements::Plain(all), Elements::Plain(gone)) => gone.iter().all(|k| all.remove(k)),
        (Elements::Marks(all), Elements::Marks(gone)) => {
            gone.keys().all(|k| all.remove(k).is_some())
        }
        (Elements::Verdicts(all), Elements::Verdicts(gone)) => {
            gone.keys().all(|k| all.remove(k).is_some())
        }
        (Elements::Marks4(all), Elements::Marks4(gone)) => {
            gone.keys().all(|k| all.remove(k).is_some())
        }
        (Elements::Marks6(all), Elements::Marks6(gone)) => {
            gone.keys().all(|k| all.remove(k).is_some())
        }
        _ => false,
    };
    if all { Ok(()) } else { Err(Errno::ENOENT) }
}
