//! A [`Translation`] kept service by service: a change costs what changes, however much there is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Front, Translation, TranslationDelta};
use crate::service::balance::Balance;

/// What one service adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    fronts: Box<[(Front, Balance)]>,
    live: Box<[Front]>,
}

impl Part {
    fn balance(&self, front: &Front) -> Option<&Balance> {
        let at = self.fronts.binary_search_by_key(front, |(front, _)| *front).ok()?;
        self.fronts.get(at).map(|(_, balance)| balance)
    }
}

impl From<Translation> for Part {
    fn from(of: Translation) -> Self {
        Self { fronts: of.fronts.into_iter().collect(), live: of.live.into_iter().collect() }
    }
}

/// What becomes of packets to virtual addresses in a slice router, and of which service it is.
///
/// At any time it amounts to one [`Translation`] of all services. Of two services with the same
/// front, which are there for a moment at most, the last one by name has it.
#[derive(Debug, Default)]
pub struct Parts {
    parts: BTreeMap<Arc<str>, Part>,
    claims: BTreeSet<(Front, Arc<str>)>,
    /// How many services have an endpoint that serves.
    live: BTreeMap<Front, u32>,
    own: BTreeSet<IpAddr>,
}

impl Parts {
    /// Gives services other parts, or none; `own` are the addresses of the node's own pods. Says what
    /// makes what was there what there is now.
    pub fn change(
        &mut self,
        changes: Vec<(Arc<str>, Option<Translation>)>,
        own: BTreeSet<IpAddr>,
    ) -> TranslationDelta {
        let changes: Vec<(Arc<str>, Option<Part>)> =
            changes.into_iter().map(|(name, part)| (name, part.map(Part::from))).collect();
        let touched = self.touched(&changes);
        let (was_empty, before) = (self.is_empty(), self.within(&touched));
        for (name, part) in changes {
            self.set(name, part);
        }
        self.own = own;
        match (was_empty, self.is_empty()) {
            (false, false) => self.within(&touched).since(&before),
            (true, true) => TranslationDelta::default(),
            _ => self.whole(),
        }
    }

    /// All of it, whatever there was.
    pub fn whole(&self) -> TranslationDelta {
        self.all().whole()
    }

    /// Whether there is nothing to be led anywhere.
    pub fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.live.is_empty()
    }

    fn all(&self) -> Translation {
        if self.is_empty() {
            return Translation::default();
        }
        let claims = self.claims.iter().map(|(front, _)| *front);
        let fronts = claims.filter_map(|front| Some((front, self.balance(&front)?.clone())));
        Translation {
            fronts: fronts.collect(),
            live: self.live.keys().copied().collect(),
            own: self.own.clone(),
        }
    }

    fn touched(&self, changes: &[(Arc<str>, Option<Part>)]) -> Touched {
        let mut touched = Touched::default();
        for (name, part) in changes {
            for part in self.parts.get(name).into_iter().chain(part) {
                touched.fronts.extend(part.fronts.iter().map(|(front, _)| *front));
                touched.live.extend(&part.live);
            }
        }
        touched
    }

    fn within(&self, touched: &Touched) -> Translation {
        let balances = touched.fronts.iter();
        let balances = balances.filter_map(|front| Some((*front, self.balance(front)?.clone())));
        let live = touched.live.iter().filter(|front| self.live.contains_key(*front));
        Translation {
            fronts: balances.collect(),
            live: live.copied().collect(),
            own: self.own.clone(),
        }
    }

    fn balance(&self, front: &Front) -> Option<&Balance> {
        // No name comes before the empty one: what begins there is all of this front's.
        let from: (Front, Arc<str>) = (*front, Arc::from(""));
        let claims = self.claims.range(from..).take_while(|(claimed, _)| claimed == front);
        let (_, name) = claims.last()?;
        self.parts.get(name)?.balance(front)
    }

    fn set(&mut self, name: Arc<str>, part: Option<Part>) {
        if let Some(old) = self.parts.remove(&name) {
            for (front, _) in &old.fronts {
                self.claims.remove(&(*front, name.clone()));
            }
            for front in &old.live {
                let count = self.live.remove(front).unwrap_or_default();
                if count > 1 {
                    self.live.insert(*front, count - 1);
                }
            }
        }
        if let Some(new) = part {
            self.claims.extend(new.fronts.iter().map(|(front, _)| (*front, name.clone())));
            for front in &new.live {
                *self.live.entry(*front).or_default() += 1;
            }
            self.parts.insert(name, new);
        }
    }
}

/// What a change is about.
#[derive(Debug, Default)]
struct Touched {
    fronts: BTreeSet<Front>,
    live: BTreeSet<Front>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::balance::Target;
    use crate::service::model::Protocol;

    fn front(last: u8, port: u16) -> Front {
        Front { address: [10, 77, 240, last].into(), protocol: Protocol::Tcp, port }
    }

    /// Few different ones, so that services meet.
    fn part() -> impl Strategy<Value = Translation> {
        let fronts =
            prop::collection::btree_map(0u8..4, prop::collection::btree_set(0u8..5, 0..4), 0..3);
        (fronts, prop::collection::btree_set(0u8..5, 0..4)).prop_map(|(fronts, live)| Translation {
            fronts: fronts.into_iter().map(|(f, to)| (front(f, 80), balance(to))).collect(),
            live: live.into_iter().map(|l| front(l, 8080)).collect(),
            own: BTreeSet::new(),
        })
    }

    fn balance(to: BTreeSet<u8>) -> Balance {
        let target = |last: u8| Target { address: [10, 77, 0, last].into(), port: 8080, share: 1 };
        let total = u32::try_from(to.len()).unwrap();
        Balance { targets: to.into_iter().map(target).collect(), total, sticky: None }
    }

    /// The same worked out from all services every time.
    fn all(services: &BTreeMap<Arc<str>, Translation>, own: &BTreeSet<IpAddr>) -> Translation {
        let mut all = Translation::default();
        for service in services.values() {
            all.fronts.extend(service.fronts.clone());
            all.live.extend(&service.live);
        }
        if !all.is_empty() {
            all.own = own.clone();
        }
        all
    }

    type Change = (Vec<(u8, Option<Translation>)>, BTreeSet<u8>);

    fn change() -> impl Strategy<Value = Change> {
        let some = prop::collection::vec((0u8..4, prop::option::of(part())), 0..3);
        (some, prop::collection::btree_set(0u8..3, 0..2))
    }

    proptest! {
        #[test]
        fn it_is_always_all_services_together(changes in prop::collection::vec(change(), 1..12)) {
            let (mut parts, mut services) = (Parts::default(), BTreeMap::new());
            let mut before = Translation::default();
            for (change, own) in changes {
                let own: BTreeSet<IpAddr> = own.into_iter().map(|o| [10, 77, 0, o].into()).collect();
                let change: BTreeMap<Arc<str>, Option<Translation>> =
                    change.into_iter().map(|(n, part)| (Arc::from(format!("s{n}")), part)).collect();
                for (name, part) in change.clone() {
                    match part {
                        Some(part) => services.insert(name, part),
                        None => services.remove(&name),
                    };
                }
                let after = all(&services, &own);
                let delta = parts.change(change.into_iter().collect(), own);
                prop_assert_eq!(delta, after.change(Some(&before)));
                prop_assert_eq!(parts.whole(), after.whole());
                before = after;
            }
        }
    }

    #[test]
    fn a_front_that_two_services_have_is_the_others_when_one_goes() {
        let of = |to| Translation {
            fronts: BTreeMap::from([(front(1, 80), balance(BTreeSet::from([to])))]),
            ..Translation::default()
        };
        let mut parts = Parts::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        parts.change(vec![(a.clone(), Some(of(1))), (b.clone(), Some(of(2)))], BTreeSet::new());
        assert!(parts.change(vec![(a.clone(), None)], BTreeSet::new()).is_empty());
        parts.change(vec![(a, Some(of(1)))], BTreeSet::new());
        let delta = parts.change(vec![(b, None)], BTreeSet::new());
        assert_eq!(delta.set, of(1).fronts);
        assert_eq!(delta.were, of(2).fronts);
    }
}
